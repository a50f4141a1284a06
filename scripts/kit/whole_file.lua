--- whole_file.lua - a text that takes a file's place whole, or not at all.
local cli = require "kit.cli"

local whole_file = {}

-- What is written, by the suffix that it has, and how to have another form of it.
local FORMS = {
  svg = { "a picture is written as SVG", "rsvg-convert FILE.svg -o FILE.png makes a PNG of it" },
  html = { "a report is written as HTML", "a browser prints it as PDF", also = "htm" },
}

--- Refuses a path whose name says that something else is in it than what will be.
function whole_file.check_suffix(command, path, form)
  local stem, suffix = path:match "^(.*[^/])%.(%w+)$"
  local lower = suffix and suffix:lower()
  if not suffix or lower == form or lower == FORMS[form].also then return end
  cli.fail(2, ("%s: --out %s: %s; say --out %s (%s)"):format(command, cli.quote(path),
    FORMS[form][1], cli.quote(stem .. "." .. form), FORMS[form][2]))
end

--- Writes `text` beside `path`, and renames it; true, or nil, message.
function whole_file.write(path, text)
  local beside = path .. ".tmp"
  local file, message = io.open(beside, "wb")
  if not file then return nil, ("%s: %s"):format(path, message:match "[^:]*$":gsub("^ ", "")) end
  local ok
  ok, message = file:write(text)
  local closed, why = file:close()
  if ok and not closed then ok, message = nil, why end
  if ok then ok, message = os.rename(beside, path) end
  if ok then return true end
  os.remove(beside)
  return nil, ("%s: %s"):format(path, message)
end

return whole_file
