-- check_links.lua - every relative link of the Markdown pages leads to a file that is there, and
-- its #part to a heading of that page. Run from the root, or with the folder that an installation
-- has its pages in:  lua5.4 .ci/check_links.lua [FOLDER]
local lfs = require "lfs"
local passed, failed = 0, 0

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "a"
  file:close()
  return text
end

local MADE = { build = true, runs = true }

--- Pages under a folder, what was made in it and hidden folders left out.
local function pages_of(folder, found)
  for name in lfs.dir(folder) do
    local path = folder .. "/" .. name
    local mode = not name:find "^%." and not MADE[name] and lfs.attributes(path, "mode")
    if mode == "directory" then
      pages_of(path, found)
    elseif mode == "file" and name:find "%.md$" then
      found[#found + 1] = path
    end
  end
  table.sort(found)
  return found
end

--- A page without its blocks of code, where brackets are code's own.
local function prose(path)
  return (("\n" .. read(path)):gsub("\n```.-\n```", "\n"))
end

--- What a heading is called in a link, as the sites that show Markdown make it.
local function anchor_of(heading)
  return (heading:lower():gsub("[^%w%s_-]", ""):gsub("%s", "-"))
end

local anchors = {}
local function has_anchor(path, anchor)
  if not anchors[path] then
    anchors[path] = {}
    for heading in prose(path):gmatch "\n#+ +([^\n]+)" do
      anchors[path][anchor_of(heading)] = true
    end
  end
  return anchors[path][anchor]
end

local function check(page, link)
  local name, anchor = link:match "^([^#]*)#?(.*)$"
  local target = name == "" and page or page:match "^.*/" .. name
  local good = lfs.attributes(target, "mode")
  if good and anchor ~= "" and target:find "%.md$" then good = has_anchor(target, anchor) end
  if good then passed = passed + 1 return end
  failed = failed + 1
  print(("%s: the link '%s' leads nowhere"):format(page, link))
end

for _, page in ipairs(pages_of(arg[1] or ".", {})) do
  for link in prose(page):gsub("`[^`\n]*`", ""):gmatch "%]%(([^)%s]+)%)" do
    if not link:find "^%a+:" then check(page, link) end
  end
end
if passed + failed == 0 then
  failed = 1
  print((arg[1] or ".") .. ": no page with a link")
end
print(("%d passed, %d failed"):format(passed, failed))
os.exit(failed == 0)
