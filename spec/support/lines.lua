-- lines.lua - command lines that nobody would type, from dice.lua: options of a command with values
-- that fit or don't. What would take long is kept short by words that are not chosen.
local dice = require "dice" -- beside this file

local lines = {}

local VALUES = { "", "0", "-1", "1", "2", "1e99", "nan", "inf", "-0", "0x10", "1.5", "none", "on",
  "text.txt", "missing", ".", "a b", "--", "-", "9223372036854775808", "1,2", "*", "%s", "auto",
  "exact", "softmax", "protein", "4G", "-5M", "1K", "\195\169", "\255", "step", "bad" }

--- Of each command, the words that it always has.
lines.KEPT = {
  train = "--steps 1 --layers 1 --dim 8 --heads 1 --length 8 --batch 2 --memory 100M --out run",
  generate = "--tokens 4", eval = "", fill = "", embed = "", score = "", inspect = "",
  shard = "", convert = "", compare = "", report = "", bench = "--wrong",
  run = "--seconds 1 missing.lua",
}

--- And what every fourth line has: a run folder, "tiny", and a text to do something with.
local WORK = {
  train = "text.txt", generate = "tiny", eval = "tiny text.txt", fill = "tiny a[MASK]c",
  embed = "tiny text.txt", score = "tiny text.txt", inspect = "tiny",
  shard = "text.txt memory:s", convert = "tiny memory:c --merge", compare = "tiny tiny",
  report = "tiny", bench = "", run = "",
}

lines.COMMANDS = {}
for command in pairs(lines.KEPT) do lines.COMMANDS[#lines.COMMANDS + 1] = command end
table.sort(lines.COMMANDS)

--- Of a help page: { option, takes a value } for each.
function lines.options(page)
  local list, seen = {}, {}
  for name, value in page:gmatch "(%-%-[%w-]+)([^\n]?[^\n]?)" do
    if not seen[name] then list[#list + 1] = { name, value:find "[<%[]" ~= nil } end
    seen[name] = true
  end
  return list
end

--- The words of one command line, the command first. pages: command -> what lines.options gave.
function lines.make(pages)
  local command = dice.one_of(lines.COMMANDS)
  local words, kept, works = { command }, " " .. lines.KEPT[command] .. " ", dice.below(4) == 1
  for _ = 1, works and dice.below(3) - 1 or dice.below(4) do
    local option = dice.one_of(pages[command])
    if not kept:find(" " .. option[1] .. " ", 1, true) then
      words[#words + 1] = option[1]
      if option[2] and dice.below(12) > 1 then words[#words + 1] = dice.one_of(VALUES) end
    end
  end
  if not works and dice.below(4) == 1 then words[#words + 1] = dice.one_of(VALUES) end
  for word in (works and kept .. WORK[command] or kept):gmatch "%S+" do words[#words + 1] = word end
  return words
end

--- What is wrong with how a command ended, by its code and what it said last; nil: nothing.
function lines.judge(code, message)
  if not (code == 0 or code == 1 or code == 2 or code == 3) then
    return "exit code " .. tostring(code)
  end
  if message:find "traceback" or message:find "%.lua:%d" then return "Lua's own words" end
  if code ~= 0 and not message:find "%S" then return "no sentence" end
end

return lines
