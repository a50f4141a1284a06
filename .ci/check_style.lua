-- check_style.lua - what a formatter does not see: long lines, tabs, trailing blanks, a
-- missing last newline, a file without its opening comment, calls that a library must not
-- make, files past their one door, and messages that count as Lua does. Counts files. Run from
-- the root.
local lfs = require "lfs"

local WIDTH = 100
local KINDS = { c = true, h = true, def = true, lua = true }
-- In engine/: the library never prints, exits, aborts, or measures a string by hope.
local FORBIDDEN = { "printf", "puts", "putchar", "exit", "abort", "assert", "sprintf",
                    "gets", "alloca", "setlocale", "signal", "omp_set_dynamic" }

local function walk(folder, found)
  if not lfs.attributes(folder, "mode") then return found end
  for name in lfs.dir(folder) do
    local path = folder .. "/" .. name
    local mode = name ~= "." and name ~= ".." and lfs.attributes(path, "mode")
    if mode == "directory" then
      walk(path, found)
    elseif mode == "file" and KINDS[name:match "%.(%a+)$"] then
      found[#found + 1] = path
    end
  end
  return found
end

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "a"
  file:close()
  return text
end

-- The C text without comments and literals, lines kept.
local function code_of(text)
  local function blank(part) return (part:gsub("[^\n]", " ")) end
  text = text:gsub("/%*.-%*/", blank)
  text = text:gsub("'\\?.'", blank)
  return (text:gsub('"[^"\n]*"', blank))
end

local function check_lines(path, text, report)
  local number = 0
  for line in text:gmatch "([^\n]*)\n" do
    number = number + 1
    local width = utf8.len(line) or #line
    if width > WIDTH then report(path, number, "%d columns, at most %d", width, WIDTH) end
    if line:find "\t" then report(path, number, "a tab") end
    if line:find "%s$" then report(path, number, "a blank at the end") end
  end
  if text ~= "" and text:sub(-1) ~= "\n" then report(path, number + 1, "no newline at the end") end
end

local function check_calls(path, text, report)
  local number = 0
  for line in code_of(text):gmatch "([^\n]*)\n" do
    number = number + 1
    for _, name in ipairs(FORBIDDEN) do
      if (" " .. line):find("[^%w_>.]" .. name .. "%s*%(") then
        report(path, number, "%s() has no place in the library", name)
      end
    end
  end
end

-- The engine counts from 0 and knows no Lua: places are pf_place's.
local function check_messages(path, text, report)
  for at, name, call in text:gmatch "()%f[%w_]([%w_]*fail[%w_]*)(%b())" do
    local line = select(2, text:sub(1, at):gsub("\n", "")) + 1
    local numbers = call:gsub('"[^"]*"', ""):gsub("%s+", " ")
    local from_1 = numbers:find "%)%([%w_>./ -]+ %+ 1%)" or numbers:find ", %l%l? %+ 1[,)]"
      or numbers:find "index %+ 1[,)]"
    if name:find "_fail" and from_1 then
      report(path, line, "a message counts from 1; give it pf_place")
    end
    if call:find '"[^"]*[ (;]:%l[%w_]*%(' then
      report(path, line, "a message names a Lua method")
    end
    if call:find '"[^"]*dimension %d' then
      report(path, line, "a message names a dimension by its number; say which it is")
    end
  end
end

-- Files have one door (engine/README.md). What the system says of its memory is no file.
local DOORS = { ["engine/io/disk_libc.c"] = true, ["engine/io/room.c"] = true }

local function check_files(path, text, report)
  if DOORS[path] then return end
  for at, header in text:gmatch "()#include <([%w_/]+)%.h>" do
    if header:find "^fcntl$" or header:find "^dirent$" or header:find "^sys/stat$" then
      report(path, select(2, text:sub(1, at):gsub("\n", "")) + 1,
        "<%s.h> has its place in io/disk_libc.c; files are reached by io/disk.h", header)
    end
  end
  local number = 0
  for line in code_of(text):gmatch "([^\n]*)\n" do
    number = number + 1
    if (" " .. line):find "[^%w_>.]f?open%s*%(" and not line:find "%(%*open%)" then
      report(path, number, "files are reached by io/disk.h, not by open() or fopen()")
    end
  end
end

local function main()
  local passed, failed, bad = 0, 0, {}
  local function report(path, line, text, ...)
    print(("%s:%d: " .. text):format(path, line, ...))
    bad[path] = true
  end
  local files = {}
  for _, folder in ipairs { "engine", "bindings", "scripts", "examples", "spec", ".ci" } do
    walk(folder, files)
  end
  table.sort(files)
  for _, path in ipairs(files) do
    local text = read(path)
    check_lines(path, text, report)
    local opening = path:match "%.lua$" and "^#?[^\n]*\n?%s*%-%-" or "^%s*/%*"
    if path:match "%.lua$" and text:match "^%-%-" then opening = "^%-%-" end
    if not text:find(opening) then report(path, 1, "begins without saying what it is") end
    if path:match "^engine/.*%.[ch]$" then
      check_calls(path, text, report)
      check_messages(path, text, report)
      check_files(path, text, report)
    end
    if bad[path] then failed = failed + 1 else passed = passed + 1 end
  end
  print(("%d passed, %d failed"):format(passed, failed))
  os.exit(failed == 0)
end

main()
