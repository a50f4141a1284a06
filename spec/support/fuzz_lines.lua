-- fuzz_lines.lua - run by the performer program: command lines (lines.lua) from a seed, all in this
-- process: each as its command's file is run, with `arg`. arg: how many, the seed, the folder of
-- scripts, and a file that holds the line which is being tried, so that after a crash it is there
-- to be tried again. Works in a folder that has the files which lines.lua names.
local dice = require "dice" -- beside this file
local lines = require "lines"
local pf = require "performer"

local count, seed, scripts, path = tonumber(arg[1]), tonumber(arg[2]), arg[3], arg[4]

package.path = scripts .. "/?.lua;" .. package.path

pf.open { threads = 1, memory = 256 << 20, log_level = "silent" }
pf.open = function() end -- of each line's options: an engine opens once

local chunks = {} -- of commands, each read once
for _, command in ipairs(lines.COMMANDS) do
  chunks[command] = assert(loadfile(("%s/%s.lua"):format(scripts, command)))
end

-- ---- one line ----

local here, files = _G, io -- what a command looks into
local out, err, printed = io.stdout, io.stderr, assert(io.open("printed", "w+"))

--- The code with which words end, and what was said: argparse prints a page and exits.
local function try(words)
  here.arg = { [-1] = "performer", [0] = words[1], table.unpack(words, 2) }
  local exit, say, page = os.exit, print, false
  rawset(os, "exit", function() page = true; error "a page of help" end)
  here.print = function(...) printed:write(table.concat({ ... }, "\t"), "\n") end
  files.stdout, files.stderr = printed, printed
  local fine, problem = pcall(chunks[words[1]])
  rawset(os, "exit", exit)
  files.stdout, files.stderr, here.print = out, err, say
  if fine or page then return 0, "" end
  if type(problem) ~= "table" then return 1, tostring(problem) end
  return problem.code, problem.message or ""
end

-- ---- all ----

local trail = assert(io.open(path, "w"))
local function note(text)
  trail:seek("set", 0)
  trail:write(text, "\n") -- what stands behind the line is of longer ones before
  trail:flush()
end

local pages = {}
for _, command in ipairs(lines.COMMANDS) do
  printed:seek "set"
  try { command, "--help" }
  local size = printed:seek()
  printed:seek "set"
  pages[command] = lines.options(printed:read(size) or "")
  assert(#pages[command] > 1, command)
end

local WORK <const> = 3000000
local bad, ends = 0, {}

local function tell(many)
  local sums = {}
  for code, n in pf.sorted(ends) do sums[#sums + 1] = ("%d: %d"):format(code, n) end
  print(("%d lines, exit codes %s, %d bad"):format(many, table.concat(sums, ", "), bad))
  io.stdout:flush()
end

for i = 1, count do
  dice.seed(seed * 1000003 + i)
  local words = lines.make(pages)
  pf.limit { work = WORK }
  note(table.concat(words, " "))
  printed:seek "set"
  local code, message = try(words)
  ends[code] = (ends[code] or 0) + 1
  local why = lines.judge(code, message)
  if why then
    bad = bad + 1
    print(("performer %s: %s\n  %s"):format(table.concat(words, " "), why, message))
  end
  if io.open "run" then os.execute "rm -rf run" end
  if i % 50 == 0 then collectgarbage() end
  if i % 10000 == 0 then tell(i) end
end
pf.limit()
trail:close()
tell(count)
