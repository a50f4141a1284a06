-- site.lua - the documentation as a small site, from what is there: READMEs, headers, examples with
-- their comments, the tables of options. Pages open from a disk, with nothing from elsewhere; the
-- search is a list of their sections that the browser looks through.
--
--   performer .ci/site/site.lua [OUT]        scripts/docs calls it; OUT: build/docs
--
-- What must hold: every link and anchor of a page leads somewhere (else it fails, and names them).
local here = arg[0]:match "^(.*)/[^/]*$" or "."
local root = here .. "/../../"
package.path = here .. "/?.lua;" .. package.path

local lfs = require "lfs"
local command_page = require "command_page"
local commands = require "kit.commands"
local contents = require "contents"
local headers = require "headers"
local highlight = require "highlight"
local json = require("performer.core").json
local literate = require "literate"
local markdown = require "markdown"
local words_page = require "words_page"

local OUT = arg[1] or root .. "build/docs"
local SOURCES = { lua = "lua", c = "c", h = "c", hpp = "cpp", cpp = "cpp", html = "html",
                  txt = "text", sh = "sh", yaml = "text" }

local pages, order = {}, {} -- by file; in the order of the contents
local place = {}            -- path in the repository -> list of pages that are made of it
local wanted = {}           -- files that pages show: pictures
local faults = {}

-- ---- files -------------------------------------------------------------------------------

local function read(path)
  local file = assert(io.open(root .. path, "rb"))
  local text = file:read "a"
  file:close()
  return text
end

local function write(name, text)
  local file = assert(io.open(OUT .. "/" .. name, "wb"))
  assert(file:write(text) and file:close())
end

--- a/b/../c -> a/c
local function clean(path)
  local parts = {}
  for part in path:gmatch "[^/]+" do
    if part == ".." then table.remove(parts) elseif part ~= "." then parts[#parts + 1] = part end
  end
  return table.concat(parts, "/")
end

-- ---- making pages ------------------------------------------------------------------------

--- Adds a page: file name, Markdown, the path that its links are relative to.
local function add(file, text, source, group, title)
  local page = markdown.page(text)
  page.file, page.source, page.group = file, source, group
  page.title = title or page.title
  assert(not pages[file], file .. " is made twice")
  pages[file], order[#order + 1] = page, page
  place[source] = place[source] or {}
  table.insert(place[source], page)
  return page
end

local function slug(title)
  return (title:lower():gsub("[^%w]+", "-"):gsub("^%-+", ""):gsub("%-+$", ""))
end

--- The parts of a Markdown file by its headings of level 2: { {title, text}, ... }, the first one
-- what stands before them.
local function parts_of(text)
  local list, fence = { { "", "" } }, false
  for line in (text .. "\n"):gmatch "(.-\n)" do
    if line:find "^```" then fence = not fence end
    local title = not fence and line:match "^## (.-)%s*\n$"
    if title then list[#list + 1] = { title, "" } end
    list[#list][2] = list[#list][2] .. (title and "# " .. title .. "\n" or line)
  end
  return list
end

--- Headings one level up, in what was cut out below one of level 2.
local function raise(text)
  local fence = false
  return (text:gsub("[^\n]*\n", function(line)
    if line:find "^```" then fence = not fence end
    return not fence and line:gsub("^##(#*) ", "#%1 ") or line
  end))
end

-- How an entry of the contents becomes pages; `entry` is as contents.lua tells.
local make = {}

function make.markdown(entry, group)
  add(entry.file, read(entry[1]), entry[1], group, entry.title)
end

--- A file cut at its headings: the first `keep` of them stay with its beginning.
function make.parts(entry, group)
  local list = parts_of(read(entry[1]))
  local first = list[1][2]
  for i = 2, entry.keep + 1 do first = first .. list[i][2]:gsub("^# ", "## ") end
  add(entry.file .. ".html", first, entry[1], group, entry.title)
  for i = entry.keep + 2, #list do
    add(("%s-%s.html"):format(entry.file, slug(list[i][1])), raise(list[i][2]), entry[1], group,
        list[i][1])
  end
end

function make.program(entry, group)
  local path = entry[1]
  local kind = path:match "%.(%a+)$"
  add(entry.file, literate[kind](read(path), entry.title), path, group, entry.title)
end

function make.header(entry, group)
  local name = entry[1]:match "[^/]+$"
  add(name:gsub("%.h$", "-h") .. ".html", headers.page(read(entry[1]), name), entry[1], group)
end

function make.commands(_, group)
  for _, command in ipairs(commands.list(root .. "scripts")) do
    add(("command-%s.html"):format(command.name), command_page(command),
        ("scripts/%s.lua"):format(command.name), group)
  end
end

function make.words(entry, group)
  add(entry.file, words_page(), entry[1], group)
end

--- A file of the repository that a page points to, to be read as it is.
local function source_page(path)
  local language = SOURCES[path:match "%.(%a+)$"]
  local file = "source-" .. slug(path) .. ".html"
  if language and not pages[file] then
    local page = { file = file, source = path, title = path, anchors = {}, sections = {} }
    page.html = ('<h1>%s</h1>\n<pre class="%s"><code>%s</code></pre>\n'):format(
      path:match "[^/]+$", language, highlight(read(path), language, markdown.escape))
    pages[file], place[path] = page, { page }
  end
  return language and file
end

-- ---- links -------------------------------------------------------------------------------

--- Where a link of a page leads; nil: nowhere.
local function target_of(page, link)
  local path, anchor = link:match "^([^#]*)#?(.*)$"
  local whole = path == "" and page.source
    or clean((page.source:match "^(.*/)" or "") .. path)
  if contents.moved[whole] then whole = contents.moved[whole] end
  if path == "" and page.anchors[anchor] then return "#" .. anchor end
  for _, other in ipairs(place[whole] or {}) do
    if anchor == "" then return other.file end
    if other.anchors[anchor] then return other.file .. "#" .. anchor end
    if slug(other.title) == anchor then return other.file end
  end
  if anchor ~= "" then return nil end
  if whole:find "%.svg$" or whole:find "%.png$" then
    if not lfs.attributes(root .. whole, "size") then return nil end
    wanted[whole] = slug(whole:gsub("%.(%a+)$", "")) .. whole:match "%.%a+$"
    return wanted[whole]
  end
  if lfs.attributes(root .. whole, "mode") == "file" then return source_page(whole) end
end

local function with_links(page)
  local html = page.html
  for _, name in ipairs { "href", "src" } do
    html = html:gsub(("(%%s)%s=\"([^\"]*)\""):format(name), function(space, link)
      if link:find "^%a+:" then return nil end
      local target = target_of(page, link)
      if not target then
        faults[#faults + 1] = ("%s: the link %s leads nowhere"):format(page.source, link)
      end
      return ('%s%s="%s"'):format(space, name, target or link)
    end)
  end
  return html
end

-- ---- the frame ---------------------------------------------------------------------------

local function navigation(page)
  local lines, group = {}, nil
  for _, other in ipairs(order) do
    if other.group ~= group then
      if group then lines[#lines + 1] = "</ul></details>" end
      group = other.group
      lines[#lines + 1] = ("<details%s><summary>%s</summary><ul>"):format(
        page.group == group and " open" or "", group)
    end
    lines[#lines + 1] = ('<li><a href="%s"%s>%s</a></li>'):format(other.file,
      other == page and ' aria-current="page"' or "", markdown.escape(other.title))
  end
  lines[#lines + 1] = "</ul></details>"
  return table.concat(lines, "\n")
end

--- Links to the page before and after in the same group.
local function neighbours(page)
  local links = {}
  for i, other in ipairs(order) do
    if other == page then
      for _, way in ipairs { { i - 1, "← %s" }, { i + 1, "%s →" } } do
        local next = order[way[1]]
        links[#links + 1] = next and next.group == page.group and ('<a href="%s">%s</a>'):format(
          next.file, way[2]:format(markdown.escape(next.title))) or "<span></span>"
      end
    end
  end
  return table.concat(links, "\n")
end

local FRAME = [[
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>%s</title>
<link rel="stylesheet" href="style.css">
</head>
<body>
<header>
<a class="name" href="index.html">Performer</a>
<a class="menu" href="#pages">Pages</a>
<form role="search"><input type="search" id="query" placeholder="Search" aria-label="Search"
 autocomplete="off"></form>
</header>
<div class="columns">
<nav id="pages" aria-label="Pages">
%s
</nav>
<main>
<div id="results" hidden></div>
<article>
%s
<footer>%s</footer>
</article>
</main>
</div>
<script src="sections.js"></script>
<script src="search.js"></script>
</body>
</html>
]]

local function frame(page, html)
  return FRAME:format(page.file == "index.html" and "Performer" or markdown.escape(page.title)
    .. " - Performer", navigation(page), html, neighbours(page))
end

--- Sections for the search: [file, title of the page, anchor, heading, text].
local function index()
  local list = {}
  for _, page in ipairs(order) do
    for _, part in ipairs(page.sections) do
      list[#list + 1] = { page.file, page.title, part.anchor, part.title, part.text }
    end
  end
  return "const SECTIONS = " .. json.encode(list) .. ";\n"
end

-- ---- all of it ---------------------------------------------------------------------------

local function build()
  lfs.mkdir(root .. "build")
  lfs.mkdir(OUT)
  for _, group in ipairs(contents) do
    for _, entry in ipairs(group) do make[entry.kind](entry, group.title) end
  end
  local done = {}
  repeat -- pages of sources come to it as they are pointed to
    local more = false
    for file, page in pairs(pages) do
      if not done[file] then
        done[file], more = page.group and with_links(page) or page.html, true
        break
      end
    end
  until not more
  for file, html in pairs(done) do write(file, frame(pages[file], html)) end
  for path, name in pairs(wanted) do write(name, read(path)) end
  for _, name in ipairs { "style.css", "search.js" } do write(name, read(".ci/site/" .. name)) end
  write("sections.js", index())
  markdown.close()
end

build()
table.sort(faults)
for _, fault in ipairs(faults) do io.stderr:write(fault, "\n") end
print(("%s/index.html: %d pages"):format(OUT, #order))
if #faults > 0 then os.exit(1) end
