"""The report: what is known of one or several runs, as one HTML file that opens from disk and fetches nothing.

records.py reads a run's files; scenes.py draws what the viewer switches between; charts.py and figures.py make
tables and curves of numbers; card.py says what a reader should know besides; page.py puts it together.
"""
