-- fuzz_spec.lua - what nobody would write: calls of the whole library with values of all kinds
-- (support/fuzz_calls.lua), and command lines of the commands' own options with wrong values. The
-- seed is fixed, so that what fails does so again; PF_LONG makes more of both.
local lfs = require "lfs"
local support = require "spec.support"

local LONG = os.getenv "PF_LONG" ~= nil
local CALLS, LINES = LONG and 1000000 or 20000, LONG and 20000 or 150

local root = assert(lfs.currentdir())
local build = support.build:find "^/" and support.build or root .. "/" .. support.build
local folder

-- ---- command lines ----

local state = 20261130

--- 1 .. n.
local function below(n)
  state = (state * 6364136223846793005 + 1442695040888963407)
  return (state >> 33) % n + 1
end

local function one_of(list) return list[below(#list)] end

local VALUES = { "''", "0", "-1", "1", "2", "1e99", "nan", "inf", "-0", "0x10", "1.5", "none", "on",
  "text.txt", "missing", ".", "'a b'", "'--'", "'-'", "9223372036854775808", "1,2", "'*'", "'%s'",
  "auto", "exact", "softmax", "protein", "4G", "-5M", "1K", "'\195\169'", "'\255'", "step", "bad" }

--- Of a help page: { option, takes a value } for each; [] where a value may be left out.
local function options_of(command)
  local _, text = support.shell(("%s/bin/performer %s --help"):format(build, command))
  local list, seen = {}, {}
  for name, value in text:gmatch "(%-%-[%w-]+)([^\n]?[^\n]?)" do
    if not seen[name] then list[#list + 1] = { name, value:find "[<%[]" ~= nil } end
    seen[name] = true
  end
  return list
end

--- Commands, and what keeps each from long work: words that are not chosen at random.
local KEPT = {
  train = "--steps 1 --layers 1 --dim 8 --heads 1 --length 8 --batch 2 --memory 100M --out run",
  generate = "--length 4", eval = "", fill = "", embed = "", score = "", inspect = "",
  shard = "", convert = "", bench = "--wrong", run = "--seconds 1 missing.lua",
}

local function command_line(commands, options)
  local command = one_of(commands)
  local words = { command }
  for _ = 1, below(4) do
    local option = one_of(options[command])
    if not (" " .. KEPT[command] .. " "):find(" " .. option[1] .. " ", 1, true) then
      words[#words + 1] = option[1]
      if option[2] and below(12) > 1 then words[#words + 1] = one_of(VALUES) end
    end
  end
  if below(4) == 1 then words[#words + 1] = one_of(VALUES) end
  return table.concat(words, " ") .. " " .. KEPT[command]
end

--- What is wrong with how it ended; nil: nothing.
local function judge(code, out, err)
  if code ~= 0 and code ~= 1 and code ~= 2 and code ~= 3 then return "exit code " .. code end
  if (out .. err):find "traceback" or err:find "%.lua:%d" then return "Lua's own words" end
  if code == 0 then return nil end
  local last = err:match "([^\n]*)\n$"
  if not last or not last:find "^performer: ." then return "no sentence" end
end

describe("what nobody would write", function()
  setup(function()
    folder = support.folder()
    support.write(folder .. "/text.txt", ("a line of text\n"):rep(30))
    support.write(folder .. "/bad", "{")
  end)

  teardown(function() support.shell("rm -rf " .. folder) end)

  it("as a call gives something, or an error of the library's", function()
    local code, out, err = support.shell(
      ("mkdir %s/calls && cd %s/calls && %s/bin/performer %s/spec/support/fuzz_calls.lua %d 7 "
        .. "%s/call"):format(folder, folder, build, root, CALLS, folder))
    local file = io.open(folder .. "/call")
    local last = file and file:read "l" or ""
    if file then file:close() end
    assert.are.equal(0, code, ("%s%s\nthe last call: %s"):format(out, err, last))
    local good, bad = out:match "(%d+) good, (%d+) bad\n$"
    assert.are.equal("0", bad, out)
    assert.is_true(tonumber(good) > CALLS // 20)
  end)

  it("as a command line ends with a sentence", function()
    local commands, options = {}, {}
    for command in pairs(KEPT) do
      commands[#commands + 1] = command
      options[command] = options_of(command)
      assert.is_true(#options[command] > 1, command)
    end
    table.sort(commands)
    local ends = {}
    for _ = 1, LINES do
      local line = command_line(commands, options)
      local code, out, err = support.shell(
        ("cd %s && timeout 100 %s/bin/performer %s </dev/null"):format(folder, build, line))
      ends[code] = (ends[code] or 0) + 1
      local why = judge(code, out, err)
      assert.is_nil(why, ("performer %s: %s\n%s"):format(line, why, err))
    end
    assert.is_true((ends[2] or 0) > LINES // 4)
  end)
end)
