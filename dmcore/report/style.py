"""The look of a report: light, readable on a telephone, and on paper."""

STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 60rem; overflow-wrap: anywhere; padding: 1.5rem; background: #fff; color: #222;
  font: 1rem/1.5 "Source Sans 3", "Source Sans Pro", Helvetica, Arial, sans-serif; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.5rem; line-height: 1.25; margin: 3rem 0 .75rem; padding-top: 1rem; border-top: 2px solid #999; }
h3 { font-size: 1.25rem; line-height: 1.3; margin: 2.5rem 0 .5rem; padding-top: .75rem; border-top: 1px solid #ddd; }
h4 { font-size: 1.05rem; line-height: 1.3; margin: 1.75rem 0 .5rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; }
dt { color: #555; } dd { margin: 0; overflow-wrap: anywhere; }
nav > ul { columns: 2; column-gap: 2rem; padding-left: 0; list-style: none; }
nav > ul > li { break-inside: avoid; margin-bottom: .6rem; font-weight: 600; }
nav ul ul { padding: 0; list-style: none; font-weight: 400; font-size: .875rem; }
nav ul ul li { display: inline; } nav ul ul li + li::before { content: " · "; color: #777; }
a { color: #005a9c; text-decoration: none; } a:hover, a:focus { text-decoration: underline; }
.finding { font-size: 1.2rem; line-height: 1.4; font-weight: 600; }
.missing { border-left: 4px solid #E69F00; background: #fff6e0; padding: .5rem .75rem; }
figure { margin: 0; break-inside: avoid; }
.chart, .table { overflow-x: auto; max-width: 100%; }
.chart svg text { font-family: "Source Sans 3", "Source Sans Pro", Helvetica, Arial, sans-serif; }
.chart svg { display: block; max-width: 100%; height: auto; }
figcaption, .caption { color: #555; font-size: .875rem; margin: .4rem 0 0; }
table { border-collapse: separate; border-spacing: 0; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; overflow-wrap: normal; padding: .25rem .9rem .25rem 0;
  border-bottom: 1px solid #e6e6e6; vertical-align: top; }
thead th { color: #555; font-weight: 600; vertical-align: bottom; }
td { white-space: nowrap; } td.long { white-space: normal; min-width: 20rem; }
th[scope=row] { font-weight: 400; min-width: 6rem; max-width: 18rem; }
th.long[scope=row] { min-width: 14rem; }
th:first-child { position: sticky; left: 0; background: #fff; }
summary { cursor: pointer; margin-top: 1rem; color: #555; } summary h4 { display: inline-block; color: #222; margin: .5rem 0; }
.more { border-left: 2px solid #ddd; padding-left: .75rem; margin-top: .5rem; }
.more summary { font-size: .875rem; margin-top: 0; color: #005a9c; }
pre { overflow: auto; max-height: 30rem; background: #f6f6f6; padding: .75rem; font-size: .8rem; line-height: 1.4; }
code { background: #f3f3f3; padding: 0 .2em; overflow-wrap: anywhere; }
footer { margin-top: 3rem; color: #555; font-size: .875rem; }
.pair { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 0 2rem; }
.wide { max-width: 100rem; }
@media (max-width: 640px) { body { padding: 1rem; } nav > ul { columns: 1; } .chart svg { min-width: 34rem; }
  dl, .pair { grid-template-columns: minmax(0, 1fr); } dd { margin-bottom: .4rem; }
  th[scope=row], th.long[scope=row] { min-width: 6rem; max-width: 9rem; } }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } pre { max-height: none; white-space: pre-wrap; }
  .table, .chart { overflow: visible; } table { font-size: 6.5pt; } th, td, td.long, th.long[scope=row] {
  white-space: normal; min-width: 0;
  padding-right: .5em; } th:first-child { position: static; } tr, h2, h3, h4, summary { break-inside: avoid; }
  h2, h3, h4, summary { break-after: avoid; } thead { display: table-header-group; }
  details::details-content { content-visibility: visible; display: block; height: auto; } .more summary { display: none; } }
"""
