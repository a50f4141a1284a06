-- markdown.lua - Markdown to the HTML of a page: cmark-gfm does the work, here are anchors for
-- headings as GitHub has them, colours for code, and the sections that the search looks through.
-- Links stay as they are written: site.lua knows where pages lie.
local highlight = require "highlight"

local markdown = {}

local scratch = os.tmpname()

local function unescape(text)
  return (text:gsub("&lt;", "<"):gsub("&gt;", ">"):gsub("&quot;", '"'):gsub("&amp;", "&"))
end

function markdown.escape(text)
  return (text:gsub("&", "&amp;"):gsub("<", "&lt;"):gsub(">", "&gt;"):gsub('"', "&quot;"))
end

--- What a reader sees of some HTML.
function markdown.text(html)
  return (unescape(html:gsub("<[^>]*>", "")):gsub("%s+", " "):match "^ ?(.-) ?$")
end

--- The anchor of a heading, by GitHub's rule; `seen` counts equal ones.
local function anchor(title, seen)
  local name = title:lower():gsub("[^%w%s_-]", ""):gsub("%s", "-")
  local n = seen[name]
  seen[name] = (n or 0) + 1
  return n and ("%s-%d"):format(name, n) or name
end

local function convert(text)
  local file = assert(io.open(scratch, "w"))
  assert(file:write(text) and file:close())
  local pipe = assert(io.popen("cmark-gfm --unsafe -e table -e strikethrough <'" .. scratch .. "'"))
  local html = pipe:read "a"
  assert(pipe:close(), "cmark-gfm failed: install Debian's cmark-gfm")
  return html
end

--- The sections of a page for the search: { { anchor, title, text }, ... }: one a heading, a row of
-- a table that begins with a name, or an anchor before a declaration.
local function sections(html, title)
  local list, marks = { { anchor = "", title = title } }, {}
  for from, id, inner, to in html:gmatch '()<h%d id="([^"]*)">(.-)</h%d>()' do
    marks[#marks + 1] = { from, to, id, markdown.text(inner) }
  end
  for _, tag in ipairs { "tr", "a" } do
    for from, id, to in html:gmatch(('()<%s id="([^"]*)">()'):format(tag)) do
      marks[#marks + 1] = { from, to, id, id }
    end
  end
  table.sort(marks, function(a, b) return a[1] < b[1] end)
  local at = 1
  for _, mark in ipairs(marks) do
    list[#list].text = markdown.text(html:sub(at, mark[1] - 1))
    at = mark[2]
    list[#list + 1] = { anchor = mark[3], title = mark[4] }
  end
  list[#list].text = markdown.text(html:sub(at))
  return list
end

--- Rows that begin with a name in code can be pointed to by it.
local function with_rows(html, anchors)
  return (html:gsub("<tr>(.-</tr>)", function(rest)
    local cell = rest:match "^%s*<td>(.-)</td>" or ""
    if cell == "" then cell = rest:match "^%s*<td></td>%s*<td>(.-)</td>" or "" end -- an option
    local id = cell:match "^<code>([%w_.:-]+)" or cell:match "^<strong><code>([%w_.:-]+)"
    if not id or anchors[id] then return nil end
    anchors[id] = true
    return ('<tr id="%s">%s'):format(id, rest)
  end))
end

--- The page of a text: { html, title, anchors = { [anchor] = true }, sections }.
function markdown.page(text)
  local html, seen, page = convert(text), {}, { anchors = {} }
  html = html:gsub("<h(%d)>(.-)</h%1>", function(level, inner)
    local id = anchor(markdown.text(inner), seen)
    page.anchors[id] = true
    page.title = page.title or markdown.text(inner)
    return ('<h%s id="%s">%s</h%s>'):format(level, id, inner, level)
  end)
  html = html:gsub('<pre><code class="language%-(%w+)">(.-)</code></pre>', function(language, code)
    return ('<pre class="%s"><code>%s</code></pre>'):format(language,
      highlight(unescape(code), language, markdown.escape))
  end)
  for id in html:gmatch '<a id="([^"]*)"' do page.anchors[id] = true end
  html = with_rows(html, page.anchors)
  html = html:gsub("<table>.-</table>", '<div class="wide">%0</div>')
  page.html, page.sections = html, sections(html, page.title)
  return page
end

function markdown.close() os.remove(scratch) end

return markdown
