//! How lists look, besides what all pages have.

/// More of the stylesheet: a bar with the ways to all pages, and entries that are rows where there is room.
pub(super) const MORE: &str = "
a{color:var(--accent);text-underline-offset:.2em}
a:hover{color:var(--over)}
.wide{display:block;padding:0 0 3rem}
.wide main{max-width:75rem;margin:1.5rem auto 0;padding:1.5rem}
.bar{display:flex;flex-wrap:wrap;align-items:center;gap:.25rem 1.5rem;padding:.6rem 1.5rem;background:var(--card);
border-bottom:1px solid var(--line)}
.bar header{margin:0}
nav{display:flex;flex-wrap:wrap;gap:.1rem .35rem;flex:1 1 auto}
nav a{padding:.4rem .7rem;border-radius:.6rem;color:var(--text);text-decoration:none;font-size:.9375rem}
nav a:hover{background:var(--back);color:var(--text)}
nav a[aria-current]{background:var(--back);font-weight:650}
.find{display:flex;flex-wrap:wrap;gap:.6rem;align-items:end;margin:0 0 1rem}
.find label{flex:1 1 100%;margin:0}
.find input{flex:1 1 14rem;width:auto}
.find button{flex:0 0 auto}
.entries{margin:0;padding:0;list-style:none}
.entries>li{display:flex;flex-wrap:wrap;gap:.75rem 1.5rem;align-items:flex-start;padding:1rem 0;border-top:1px solid var(--line)}
.what{flex:1 1 16rem;min-width:0}
.what h2{margin:0;font-size:1rem;color:var(--text)}
.entries dl{flex:2 1 22rem;min-width:0;margin:0;grid-template-columns:minmax(6rem,auto) 1fr;gap:.15rem .9rem;font-size:.875rem}
.entries form{flex:0 0 auto}
.does{display:flex;flex-wrap:wrap;gap:.5rem}
.does button{flex:0 0 auto;min-height:2.4rem;padding:.3rem .9rem;font-size:.9375rem}
.tag{display:inline-block;margin:.3rem .35rem 0 0;padding:.05rem .5rem;border-radius:1rem;font-size:.8125rem;
background:var(--back);border:1px solid var(--line)}
.bad{color:var(--bad);background:var(--badback);border-color:transparent}
.numbers{display:grid;grid-template-columns:repeat(auto-fit,minmax(11rem,1fr));gap:1rem;margin:1rem 0}
.numbers a{display:block;padding:1rem;border:1px solid var(--line);border-radius:.8rem;text-decoration:none;color:var(--text)}
.numbers a:hover{border-color:var(--edge)}
.numbers strong{display:block;font-size:1.5rem}
.more{margin:1rem 0 0}
.slim{max-width:30rem}
.begin{margin:.75rem 0 1.25rem}
@media (max-width:30rem){.wide{background:var(--card)}.wide main{margin:0;padding:1.25rem}.bar{padding:.6rem 1.25rem}
.bar form{margin-left:auto}.bar nav{order:3;flex-basis:100%;margin:0 -.7rem}
.does{width:100%}.does form{flex:1 1 auto}.does button{width:100%}}
";
