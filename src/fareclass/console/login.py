"""Plain pages: the login, since nothing else of the console is shown to strangers, and the one for what is not there."""

from html import escape

_FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title} · Fareclass</title>
<style>
  :root {{ --ground: #f6f7f9; --card: #fff; --ink: #16181d; --soft: #5b6270; --line: #d9dde4; --accent: #3056d3;
           --bad: #b3261e; }}
  @media (prefers-color-scheme: dark) {{
    :root {{ --ground: #0f1115; --card: #171a21; --ink: #e8eaee; --soft: #9aa1ae; --line: #2b303b; --accent: #8aa4ff;
             --bad: #ff8a80; }}
  }}
  * {{ box-sizing: border-box; }}
  body {{ margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 16px; background: var(--ground);
          color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }}
  main {{ width: 100%; max-width: 380px; padding: 28px; background: var(--card); border: 1px solid var(--line);
          border-radius: 8px; }}
  h1 {{ margin: 0 0 4px; font-size: 20px; }}
  p {{ margin: 0 0 16px; color: var(--soft); overflow-wrap: anywhere; }}
  label {{ display: block; margin-bottom: 6px; font-weight: 600; }}
  input {{ width: 100%; padding: 10px; font: inherit; color: inherit; background: var(--ground);
           border: 1px solid var(--line); border-radius: 6px; }}
  button {{ width: 100%; margin-top: 14px; padding: 10px; font: inherit; font-weight: 600; color: #fff;
            background: #3056d3; border: 0; border-radius: 6px; cursor: pointer; }}
  a {{ color: var(--accent); font-weight: 600; }}
  :focus-visible {{ outline: 3px solid var(--accent); outline-offset: 2px; }}
  .bad {{ color: var(--bad); font-weight: 600; }}
  small {{ display: block; margin-top: 16px; color: var(--soft); }}
  code {{ font-size: 12px; overflow-wrap: anywhere; }}
</style>
</head>
<body>
<main>
  <h1>Fareclass</h1>
{main}</main>
</body>
</html>
"""
_LOGIN = """  <p>Console of {gateway}</p>
  {trouble}
  <form method="post" action="/login">
    <input type="hidden" name="next" value="{onward}">
    <label for="key">Admin key or read-only key</label>
    <input id="key" name="key" type="password" autocomplete="current-password" required autofocus>
    <button type="submit">Log in</button>
  </form>
  <small>The gateway showed them at its first start, or put them beside its master key: <code>admin.key</code> and
  <code>read-only.key</code>. Your browser does not keep the key; a login lasts 12 hours.</small>
"""
_NOWHERE = """  <p>There is nothing at this address.</p>
  <a href="/">To the console</a>
"""


def login_page(gateway: str, onward: str, trouble: str = "") -> str:
    """The page's HTML; `onward` is where a login leads to, `trouble` why there is none yet."""
    told = f'<p class="bad" role="alert">{escape(trouble)}</p>' if trouble else ""
    main = _LOGIN.format(gateway=escape(gateway), onward=escape(onward, quote=True), trouble=told)
    return _FRAME.format(title="Log in", main=main)


def nowhere_page() -> str:
    """The HTML for an address at which nothing is."""
    return _FRAME.format(title="Not found", main=_NOWHERE)
