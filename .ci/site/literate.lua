-- literate.lua - a program as a text to read: its comments at the margin are paragraphs, what lies
-- between them is code. For the examples, whose comments are written to be read in this order.

local literate = {}

--- Lines of a comment as a paragraph; an indented one is code (commands to run it).
local function prose(lines)
  local out = {}
  for _, line in ipairs(lines) do
    local code = line:match "^ %s%s+(.+)$"
    out[#out + 1] = code and "    " .. code or line:gsub("^ ", "")
    if code and out[#out - 1] and not out[#out - 1]:find "^    " then
      table.insert(out, #out, "")
    end
  end
  return table.concat(out, "\n")
end

--- A Lua program: its first line "NAME - what it is" becomes the title `title` and a sentence.
function literate.lua(source, title)
  local parts, code, comment = { "# " .. title }, {}, {}
  local function flush_code()
    local text = table.concat(code, "\n"):gsub("^%s*\n", ""):gsub("%s+$", "")
    if text ~= "" then parts[#parts + 1] = "```lua\n" .. text .. "\n```" end
    code = {}
  end
  local function flush_comment()
    if #comment > 0 then parts[#parts + 1] = prose(comment) end
    comment = {}
  end
  local lines = {}
  for line in (source .. "\n"):gmatch "(.-)\n" do lines[#lines + 1] = line end
  lines[1] = lines[1]:gsub("^(%-+ )%S+%.lua %- (%l)", function(dashes, letter)
    return dashes .. letter:upper()
  end)
  for _, line in ipairs(lines) do
    -- What documents a function (---) stays with it; the head of the file is prose.
    local text = line:match "^%-%-([^-].*)$" or line:match "^%-%-$" and ""
      or #parts == 1 and #code == 0 and line:match "^%-%-%-(.*)$"
    local within = #code > 0 and code[#code]:find "^%-%-%-?"
    if text and not within then
      flush_code()
      comment[#comment + 1] = text
    else
      flush_comment()
      code[#code + 1] = line
    end
  end
  flush_comment()
  flush_code()
  return table.concat(parts, "\n\n") .. "\n"
end

--- A C program: its first comment is prose, the rest one piece.
function literate.c(source, title)
  local head, code = source:match "^/%*(.-)%*/\n(.*)$"
  local text = head:gsub("\n ?%*", "\n"):gsub("^%s*%S+%.%a+ %- (%l)", string.upper)
  return ("# %s\n\n%s\n\n```c\n%s```\n"):format(title, text, code)
end

return literate
