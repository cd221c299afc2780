"""The look of a report: light, readable on a telephone, and on paper."""

STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 60rem; overflow-wrap: anywhere; padding: 1.5rem; background: #fff; color: #222;
  font: 1rem/1.5 "Source Sans 3", "Source Sans Pro", Helvetica, Arial, sans-serif; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.5rem; line-height: 1.25; margin: 3rem 0 .75rem; padding-top: 1rem; border-top: 1px solid #ddd; }
h3 { font-size: 1.1rem; line-height: 1.3; margin: 2rem 0 .5rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; }
dt { color: #555; } dd { margin: 0; overflow-wrap: anywhere; }
nav ul { columns: 2; padding-left: 1.2rem; } a { color: #005a9c; }
.finding { font-size: 1.25rem; line-height: 1.4; font-weight: 600; }
.missing { border-left: 4px solid #E69F00; background: #fff6e0; padding: .5rem .75rem; }
figure { margin: 0; break-inside: avoid; }
.chart, .table { overflow-x: auto; max-width: 100%; }
.chart svg { display: block; max-width: 100%; height: auto; }
figcaption, .caption { color: #555; font-size: .875rem; margin: .4rem 0 0; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; overflow-wrap: normal; padding: .25rem .75rem .25rem 0;
  border-bottom: 1px solid #e6e6e6; vertical-align: top; }
th { color: #555; font-weight: 600; } td { white-space: nowrap; }
td:last-child { white-space: normal; min-width: 12rem; }
summary h3 { display: inline-block; } summary { cursor: pointer; margin-top: 1rem; color: #555; }
summary h3 { color: #222; margin: .5rem 0; }
pre { overflow: auto; max-height: 30rem; background: #f6f6f6; padding: .75rem; font-size: .8rem; line-height: 1.4; }
code { background: #f3f3f3; padding: 0 .2em; overflow-wrap: anywhere; }
footer { margin-top: 3rem; color: #555; font-size: .875rem; }
.pair { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 0 2rem; }
.wide { max-width: 100rem; }
@media (max-width: 640px) { body { padding: 1rem; } nav ul { columns: 1; } .chart svg { min-width: 34rem; }
  dl, .pair { grid-template-columns: minmax(0, 1fr); } dd { margin-bottom: .4rem; } }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } pre { max-height: none; white-space: pre-wrap; }
  .table { overflow: visible; } table { font-size: 7pt; } td { white-space: normal; } }
"""
