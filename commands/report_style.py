"""CSS of a report's page, beside that of its tables: wide screens, phones, light, dark and paper."""

STYLE = """
body { overflow-wrap: break-word; }
.words { min-width: 7rem; }
.large { font-size: 1.6rem; margin: 0 0 .5rem; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .15rem 1rem; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; }
section > .plots { display: flex; flex-wrap: wrap; gap: 1.2rem; overflow: visible; }
.plot { max-width: 100%; overflow-x: auto; }
.plot svg { display: block; height: auto; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
tbody th { max-width: 16rem; white-space: normal; min-width: 9rem; }
.frames { display: flex; flex-wrap: wrap; gap: .8rem; margin-top: 1rem; }
figure { margin: 0; width: 112px; }
figcaption { font-size: .75rem; color: var(--soft); }
.notes li { color: var(--text); }
details { margin-top: 1rem; }
pre { overflow-x: auto; font-size: .8rem; overflow-wrap: normal; }
@media (max-width: 40rem) { body { padding: 0 .8rem; margin: 1rem auto; } .large { font-size: 1.25rem; }
  th, td { padding: .3rem .5rem; } tbody th { min-width: 6rem; } }
@media print { :root { --text: #000; --page: #fff; --line: #999; --soft: #333; --band: #f4f6f9;
  --lead: #0b5cad; } body { max-width: none; margin: 0; } section > div, .plot, pre { overflow: visible; }
  table { font-size: .75rem; white-space: normal; } th, td { padding: .2rem .4rem; }
  .plot svg { min-width: 0 !important; }
  .plot, figure, tr { break-inside: avoid; } h2 { break-after: avoid; } }
"""
