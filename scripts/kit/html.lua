--- html.lua - one page that opens offline: text that is escaped, tables, pictures inline, a style
-- that follows the reader's choice of light or dark. No script, and nothing from elsewhere.
local cli = require "kit.cli"

local html = {}

-- ---- text ----

local ENTITIES = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;",
                   ["'"] = "&#39;" }

--- A text as a page has it: nothing of it is a tag or a quote; U+FFFD for what is no UTF-8, and for
-- control characters but line ends and tabs.
function html.escape(text)
  text = cli.utf8(tostring(text)):gsub("[&<>\"']", ENTITIES)
  return (text:gsub("[\1-\8\11-\31\127]", "\u{FFFD}"))
end

local escape = html.escape

--- <p> of a sentence.
function html.paragraph(text) return ("<p>%s</p>\n"):format(escape(text)) end

--- Text as it stands, to be copied: a command, or what a model wrote.
function html.block(text) return ("<pre tabindex=\"0\">%s</pre>\n"):format(escape(text)) end

--- A table; head: the cells of its first row. The first cell of a row is its name.
function html.table(caption, head, rows)
  local out = { ("<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"%s\"><table>"
    .. "<caption>%s</caption>\n<thead><tr>"):format(escape(caption), escape(caption)) }
  for _, cell in ipairs(head) do
    out[#out + 1] = ("<th scope=\"col\">%s</th>"):format(escape(cell))
  end
  out[#out + 1] = "</tr></thead>\n<tbody>\n"
  for _, row in ipairs(rows) do
    out[#out + 1] = ("<tr><th scope=\"row\">%s</th>"):format(escape(row[1]))
    for i = 2, #head do out[#out + 1] = ("<td>%s</td>"):format(escape(row[i] or "")) end
    out[#out + 1] = "</tr>\n"
  end
  out[#out + 1] = "</tbody></table></div>\n"
  return table.concat(out)
end

-- ---- pictures ----

--- An SVG text of kit/svg.lua as a figure; alt says in words what it shows.
function html.figure(picture, alt, caption)
  picture = picture:gsub('fill="#fff"/>', 'class="ground"/>', 1)
  return ("<figure><div class=\"wide\" role=\"img\" tabindex=\"0\" aria-label=\"%s\">%s</div>"
    .. "<figcaption>%s</figcaption></figure>\n"):format(escape(alt), picture, escape(caption))
end

local DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

--- RFC 4648.
function html.base64(bytes)
  local out = {}
  for i = 1, #bytes, 3 do
    local a, b, c = bytes:byte(i, i + 2)
    local n = a << 16 | (b or 0) << 8 | (c or 0)
    for shift = 18, 0, -6 do
      local digit = n >> shift & 63
      out[#out + 1] = DIGITS:sub(digit + 1, digit + 1)
    end
    if not c then out[#out] = "=" end
    if not b then out[#out - 1] = "=" end
  end
  return table.concat(out)
end

--- Rows of numbers from 0 (white) to 1 (dark blue) as a picture of a pixel a number: a Windows
-- bitmap of 256 colours, which every browser shows.
function html.bitmap(rows)
  local height, width = #rows, #rows[1]
  local palette, lines, padding = {}, {}, ("\0"):rep(-width % 4)
  for i = 0, 255 do
    local light = 255 - i
    palette[i + 1] = string.char(math.min(255, 96 + light * 159 // 255), light * 230 // 255 + 25,
                                 light, 0) -- blue, green, red
  end
  for i = height, 1, -1 do
    local bytes = {}
    for j, value in ipairs(rows[i]) do
      bytes[j] = string.char(math.floor(255 * math.max(0, math.min(1, value)) + 0.5))
    end
    lines[#lines + 1] = table.concat(bytes) .. padding
  end
  local colours, pixels = table.concat(palette), table.concat(lines)
  local from = 14 + 40 + #colours
  return string.pack("<c2I4I2I2I4", "BM", from + #pixels, 0, 0, from)
    .. string.pack("<I4i4i4I2I2I4I4i4i4I4I4", 40, width, height, 1, 8, 0, #pixels, 2835, 2835, 256,
                   0) .. colours .. pixels
end

--- Rows of numbers as a picture of its own, `size` pixels wide on the page.
function html.pixels(rows, alt, size)
  return ("<img alt=\"%s\" width=\"%d\" height=\"%d\" src=\"data:image/bmp;base64,%s\">"):format(
    escape(alt), size, size, html.base64(html.bitmap(rows)))
end

-- ---- the page ----

local STYLE = [[
:root { color-scheme: light dark; --ground: #fff; --ink: #1b1b1b; --soft: #555; --line: #ccc;
  --panel: #f4f5f7; --link: #0b5cad; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #16181c; --ink: #e8e8e8; --soft: #b0b3b8; --line: #44484f; --panel: #22252b;
    --link: #8ab8ff; }
  svg [stroke="#0072b2"] { stroke: #56a8e0; } svg [fill="#0072b2"] { fill: #56a8e0; }
  svg [stroke="#d55e00"] { stroke: #f08a3c; } svg [fill="#d55e00"] { fill: #f08a3c; }
  svg [stroke="#882255"] { stroke: #d878a8; } svg [fill="#882255"] { fill: #d878a8; }
  svg [stroke="#8b4513"] { stroke: #c98a5a; } svg [fill="#8b4513"] { fill: #c98a5a; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; background: var(--ground);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: .5rem 0; } h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem;
  padding-top: .5rem; border-top: 1px solid var(--line); }
a { color: var(--link); } p { margin: .5rem 0; } .soft, figcaption, caption { color: var(--soft); }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1rem; padding: 0; list-style: none; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .75rem;
  margin: 1rem 0; padding: 0; }
.cards div { background: var(--panel); border: 1px solid var(--line); border-radius: .5rem;
  padding: .5rem .75rem; }
.cards dt { color: var(--soft); font-size: .875rem; } .cards dd { margin: 0; font-size: 1.2rem; }
.notes { background: var(--panel); border-left: 4px solid #d55e00; padding: .5rem 1rem; }
.notes ul { margin: 0; padding-left: 1.2rem; }
.wide { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .9rem; margin: .5rem 0; overflow-wrap: normal; }
caption { text-align: left; padding: .25rem 0; }
th, td { text-align: right; padding: .2rem .75rem .2rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; font-variant-numeric: tabular-nums; }
th:first-child { text-align: left; font-weight: 500; } .texts td { text-align: left; }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: .5rem;
  padding: .75rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .875rem; }
figure { margin: 1rem 0; } figcaption { font-size: .9rem; }
svg { width: 100%; min-width: 36rem; max-width: 47.5rem; height: auto; }
svg .ground { fill: var(--ground); } svg text { fill: var(--ink); }
svg [stroke="#ddd"] { stroke: var(--line); } svg [stroke="#666"] { stroke: var(--soft); }
svg [stroke="#000000"] { stroke: var(--ink); } svg [fill="#000000"] { fill: var(--ink); }
.maps { display: flex; flex-wrap: wrap; gap: .75rem; }
.maps figure { margin: 0; } .maps img { image-rendering: pixelated;
  border: 1px solid var(--line); display: block; }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
@media print { nav { display: none; } }
]]

--- A page of sections, a list of { id, title, body (HTML) }; intro: HTML before them.
function html.page(title, intro, sections)
  local links, parts = {}, {}
  for i, section in ipairs(sections) do
    links[i] = ("<li><a href=\"#%s\">%s</a></li>"):format(escape(section.id), escape(section.title))
    parts[i] = ("<section aria-labelledby=\"%s\"><h2 id=\"%s\">%s</h2>\n%s</section>\n"):format(
      escape(section.id), escape(section.id), escape(section.title), section.body)
  end
  return table.concat {
    "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n",
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n",
    -- Whatever stands in a name or a sample: nothing is run, and nothing fetched.
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; ",
    "style-src 'unsafe-inline'; img-src data:\">\n",
    "<title>", escape(title), "</title>\n<style>\n", STYLE, "</style></head>\n<body>\n<header><h1>",
    escape(title), "</h1>\n", intro, "<nav aria-label=\"Sections\"><ul>", table.concat(links),
    "</ul></nav></header>\n<main>\n", table.concat(parts), "</main></body></html>\n",
  }
end

return html
