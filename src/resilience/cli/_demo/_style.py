"""The looks of the report, in light and dark. Nothing is loaded from elsewhere."""

from typing import Final

STYLE: Final = """
:root {
  color-scheme: light dark; --paper: #ffffff; --ink: #1c2228; --soft: #59636e; --rule: #d5dae0;
  --panel: #f6f8fa; --naive: #b54708; --resilient: #0b63c5; --offered: #6b7280; --fault: #fbe3df;
  --good: #1a7f37; --bad: #b42318;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #12161b; --ink: #e6e9ed; --soft: #a3adb8; --rule: #3a434e; --panel: #1a2027;
    --naive: #ff9e57; --resilient: #6cb2ff; --offered: #98a2ad; --fault: #3d2427;
    --good: #4ac26b; --bad: #ff7b72;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 76rem; padding: 1.5rem 1.25rem 4rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
}
h1 { font-size: 1.7rem; margin: 0 0 .25rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .25rem; }
p { margin: .4rem 0; max-width: 62rem; }
.soft { color: var(--soft); }
.conclusion {
  border-left: .3rem solid var(--good); background: var(--panel); padding: .7rem 1rem; margin: 1rem 0;
}
.conclusion.bad { border-color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .4rem; }
th, td {
  padding: .3rem .8rem; border-bottom: 1px solid var(--rule); text-align: right; white-space: nowrap;
}
th:first-child, th[scope=row], th.left { text-align: left; }
th[scope=row] { font-weight: 600; }
th[scope=rowgroup] { text-align: left; vertical-align: top; }
.key { display: inline-flex; align-items: center; gap: .4rem; margin-right: 1.4rem; }
.key svg { width: 2.4rem; height: .8rem; }
.charts {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 1rem;
}
figure {
  margin: 0; background: var(--panel); border: 1px solid var(--rule); border-radius: .4rem;
  padding: .7rem .8rem;
}
figcaption { font-weight: 600; font-size: .95rem; margin-bottom: .3rem; }
figure svg { width: 100%; height: auto; display: block; }
.grid { stroke: var(--rule); stroke-width: 1; }
.tick { fill: var(--soft); font-size: 12px; }
.fault { fill: var(--fault); }
.fault-label { fill: var(--ink); font-size: 12px; }
.line { fill: none; stroke-width: 2.2; stroke-linejoin: round; }
.naive { stroke: var(--naive); stroke-dasharray: 7 4; }
.resilient { stroke: var(--resilient); }
.offered, .in-use { stroke: var(--offered); stroke-dasharray: 2 4; }
"""
