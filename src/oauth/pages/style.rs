//! How the pages look: one card, the system's own font, light and dark, readable from 320 pixels up.

/// The icon, so that no browser asks for one.
pub(crate) const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E%3Crect \
     width='32' height='32' rx='8' fill='%232f5bd0'/%3E%3Cpath d='M9 24V13a7 7 0 0 1 14 0v11M16 17v7' fill='none' \
     stroke='white' stroke-width='3' stroke-linecap='round'/%3E%3C/svg%3E";

/// The stylesheet. Colours keep a contrast of 4.5 to 1 and more against what they stand on (WCAG 2.2, AA).
pub(crate) const STYLE: &str = "
:root{color-scheme:light dark;--back:#f3f4f7;--card:#fff;--line:#dfe2e8;--edge:#858c9b;--text:#1b1f27;--soft:#565e6c;
--accent:#2f5bd0;--over:#2449ab;--on:#fff;--bad:#a3201d;--badback:#fdeeed;--note:#6b4400;--noteback:#fff5df}
@media (prefers-color-scheme:dark){:root{--back:#101319;--card:#191d25;--line:#2d333f;--edge:#7a8394;--text:#e9ebf0;
--soft:#a6aebc;--accent:#8fb0ff;--over:#b3c9ff;--on:#0e1a38;--bad:#ffb3ae;--badback:#3a1c1b;--note:#f2cf8d;--noteback:#342a16}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0;min-height:100vh;min-height:100dvh;display:flex;justify-content:center;align-items:flex-start;
padding:clamp(0rem,8vh,6rem) 1rem 2rem;background:var(--back);color:var(--text);
font:1rem/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif}
main{width:100%;max-width:27rem;background:var(--card);border:1px solid var(--line);border-radius:1rem;
padding:2rem;box-shadow:0 1px 2px #0000000a,0 8px 30px #0000000f;overflow-wrap:anywhere}
header{display:flex;align-items:center;gap:.6rem;margin-bottom:1.75rem;color:var(--soft);font-size:.9rem}
.mark{flex:none;width:1.1rem;height:1.25rem;border:.2rem solid var(--accent);border-bottom:0;border-radius:.6rem .6rem 0 0}
h1{margin:0 0 .5rem;font-size:1.5rem;line-height:1.25;letter-spacing:-.01em;font-weight:650}
h2{margin:1.5rem 0 .25rem;font-size:.9rem;font-weight:600;color:var(--soft)}
p{margin:0 0 1rem}
strong{font-weight:650}
small{display:block;font-size:.8125rem;line-height:1.4;color:var(--soft)}
.alert,.notice{padding:.7rem .9rem;border-radius:.6rem;font-size:.9375rem}
.alert{color:var(--bad);background:var(--badback)}
.notice{color:var(--note);background:var(--noteback)}
.scopes{margin:0;padding:0;list-style:none}
.scopes li{position:relative;padding:.55rem 0 .55rem 1.75rem;border-bottom:1px solid var(--line)}
.scopes li::before{content:'';position:absolute;left:.35rem;top:.9rem;width:.35rem;height:.65rem;
border:solid var(--accent);border-width:0 .14rem .14rem 0;transform:rotate(45deg)}
dl{margin:1.25rem 0 0;display:grid;grid-template-columns:minmax(6.5rem,auto) 1fr;gap:.75rem 1rem;font-size:.9375rem}
dt{color:var(--soft)}
dd{margin:0;min-width:0}
.details{padding-top:1rem;border-top:1px solid var(--line)}
code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:.875rem}
label{display:block;margin:1rem 0 .35rem;font-weight:600;font-size:.9375rem}
.entries{margin:0;padding:0;list-style:none}
.entries li{padding:.75rem 0;border-bottom:1px solid var(--line)}
.qr{display:block;width:12rem;max-width:100%;height:auto;margin:1rem auto;border-radius:.6rem}
[hidden]{display:none}
.row{display:flex;gap:1rem;align-items:flex-start;justify-content:space-between}
.row div{min-width:0}
.row form{flex:none}
.row .small{margin-top:0}
.small{flex:none;min-height:2.25rem;margin-top:.5rem;padding:.3rem .8rem;font-size:.9375rem}
fieldset{margin:1rem 0 0;padding:.5rem .9rem .9rem;border:1px solid var(--line);border-radius:.6rem}
legend{padding:0 .3rem;font-size:.9375rem;font-weight:600}
.tick{display:flex;gap:.6rem;align-items:flex-start;margin:.5rem 0 0;font-weight:400}
.tick input{flex:none;width:1.25rem;min-height:1.25rem;margin:.1rem 0 0}
select{display:block;width:100%;min-height:2.9rem;padding:.6rem .8rem;font:inherit;color:var(--text);background:var(--card);
border:1px solid var(--edge);border-radius:.6rem}
input{display:block;width:100%;min-height:2.9rem;padding:.6rem .8rem;font:inherit;color:var(--text);background:var(--card);
border:1px solid var(--edge);border-radius:.6rem}
.actions{display:flex;flex-wrap:wrap;gap:.75rem;margin-top:1.5rem}
button{flex:1 1 8rem;min-height:2.9rem;padding:.6rem 1rem;font:inherit;font-weight:600;color:var(--text);
background:transparent;border:1px solid var(--edge);border-radius:.6rem;cursor:pointer}
button:hover{border-color:var(--text)}
.primary{color:var(--on);background:var(--accent);border-color:var(--accent)}
.primary:hover{background:var(--over);border-color:var(--over)}
.other{margin-top:1.25rem;font-size:.9375rem;color:var(--soft)}
.link{flex:none;min-height:2rem;padding:.15rem .1rem;font-weight:500;color:var(--accent);border:0;text-decoration:underline;
text-underline-offset:.2em}
.link:hover{color:var(--over)}
:focus-visible{outline:.2rem solid var(--accent);outline-offset:.15rem}
a{color:var(--accent);text-underline-offset:.2em}
.fine{margin:1.5rem 0 0;font-size:.875rem;color:var(--soft)}
@media (max-width:30rem){body{padding:0;background:var(--card)}main{border:0;border-radius:0;box-shadow:none;
padding:1.5rem 1.25rem}}
@media (forced-colors:active){.mark,.scopes li::before{border-color:CanvasText}}
";
