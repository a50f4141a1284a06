-- headers.lua - a public C header as a text to read: its first comment, and then section by section
-- (/* ---- name ---- text */) its declarations, each function with an anchor of its own name.

local headers = {}

--- A comment's text without its stars; what is indented in it stays so.
local function plain(comment)
  return (comment:gsub("^/%*[ \t]?", ""):gsub("%s*%*/$", ""):gsub("\n %*[ \t]?", "\n")
    :gsub("^\n", ""))
end

--- Text for Markdown: what is indented is code, and nothing else in it is markup but what is
-- between backquotes.
local function prose(text)
  local lines, before = {}, ""
  for line in (text .. "\n"):gmatch "(.-)\n" do
    local code = line:match "^%s%s%s+(.*)$"
    if (code ~= nil) ~= (before:find "^%s%s%s" ~= nil) then lines[#lines + 1] = "" end
    before = line
    lines[#lines + 1] = code and " " .. line or line:gsub("([%[%]<>*_|])", "\\%1")
      :gsub("`([^`]*)`", function(name) return "`" .. name:gsub("\\(%p)", "%1") .. "`" end)
  end
  return table.concat(lines, "\n")
end

--- The declarations of a section as blocks of lines; a blank line ends one.
local function blocks(body)
  local list, block = {}, {}
  for line in (body .. "\n\n"):gmatch "(.-)\n" do
    if line:find "%S" then
      block[#block + 1] = line
    elseif #block > 0 then
      list[#list + 1], block = table.concat(block, "\n"), {}
    end
  end
  return list
end

local function add_section(parts, title, comment, body)
  parts[#parts + 1] = "## " .. title:gsub("^%l", string.upper)
  if comment ~= "" then parts[#parts + 1] = prose(comment) end
  for _, block in ipairs(blocks(body)) do
    local seen = {}
    for _, way in ipairs { "PF_API[^;(]-([%a_][%w_]*)%(", "static inline[^;(]-([%a_][%w_]*)%(" } do
      for name in block:gmatch(way) do
        if not seen[name] then parts[#parts + 1] = ('<a id="%s"></a>'):format(name) end
        seen[name] = true
      end
    end
    parts[#parts + 1] = "```c\n" .. block .. "\n```"
  end
end

--- The header's page, and the functions that it declares: { { name, comment }, ... }.
function headers.page(source, name)
  local first, rest = source:match "^(/%*.-%*/)(.*)$"
  local parts = { "# " .. name, prose(plain(first):gsub("^%s*%S+%.h %- (%l)", string.upper)) }
  local guard = rest:find "\n/%* %-%-%-%- " or #rest + 1
  local before = rest:sub(1, guard):gsub("\n#if[^\n]*\n#define PERFORMER[^\n]*", "")
    :gsub("\n#ifdef __cplusplus.-#endif\n", "\n"):gsub("\n#ifndef [^\n]*\n#define [^\n]*_H\n", "\n")
    :gsub("#include [^\n]*", "")
  if before:find "%S" then add_section(parts, "What comes first", "", before) end
  rest = rest:sub(guard):gsub("\n#ifdef __cplusplus.-#endif\n", "\n")
    :gsub("\n#endif[^\n]*\n*$", "\n")
  local at = 1
  while true do
    local from, to, comment = rest:find("\n(/%* %-%-%-%- .-%*/)", at)
    if not from then break end
    local title, text = plain(comment):match "^%-%-%-%- (.-) %-%-+%s*(.*)$"
    local stop = rest:find("\n/%* %-%-%-%- ", to) or #rest + 1
    add_section(parts, title, text, rest:sub(to + 1, stop - 1))
    at = stop
  end
  return table.concat(parts, "\n\n") .. "\n"
end

return headers
