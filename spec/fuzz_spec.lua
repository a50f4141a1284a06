-- fuzz_spec.lua - what nobody would write: calls of the whole library with values of all kinds
-- (support/fuzz_calls.lua), and command lines with values that fit or don't, in one process by
-- thousands (support/fuzz_lines.lua) and some as they are typed. The seed is fixed, so that what
-- fails does so again; PF_LONG makes more of all.
local lfs = require "lfs"
local support = require "spec.support"

local LONG, SANITIZED = os.getenv "PF_LONG" ~= nil, support.sanitized
local MANY = LONG and 10000000 or SANITIZED and 4000 or 20000 -- of what one process does
local TYPED = LONG and 20000 or 60

local root = assert(lfs.currentdir())
local build = support.build
local performer, folder = build .. "/bin/performer", nil

package.path = package.path .. ";" .. root .. "/spec/support/?.lua"
local dice = require "dice"
local lines = require "lines"

--- What support/NAME.lua says, run with `words` in a folder of the spec's.
local function fuzz(name, words, where)
  local code, out, err = support.shell(("cd %s/%s && %s %s/spec/support/%s.lua %d 7 %s %s/made")
    :format(folder, where, performer, root, name, MANY, words, folder))
  local made = io.open(folder .. "/made")
  local last = made and made:read "l":gsub(" +$", "") or ""
  if made then made:close() end
  assert.are.equal(0, code, ("%s%s\nthe last one: %s"):format(out, err, last))
  return out
end

describe("what nobody would write", function()
  setup(function()
    folder = support.folder()
    support.shell(("mkdir %s/calls %s/lines"):format(folder, folder))
    support.write(folder .. "/lines/text.txt", ("a line of text\n"):rep(30))
    support.write(folder .. "/lines/bad", "{")
    assert.are.equal(0, (support.shell(("cd %s/lines && %s train text.txt --out tiny --steps 2 "
      .. "--layers 1 --dim 8 --heads 1 --length 8 --batch 2"):format(folder, performer))))
  end)

  teardown(function() support.shell("rm -rf " .. folder) end)

  it("as a call gives something, or an error of the library's", function()
    local out = fuzz("fuzz_calls", "", "calls")
    local good, bad = out:match "(%d+) good, (%d+) bad\n$"
    assert.are.equal("0", bad, out)
    assert.is_true(tonumber(good) > MANY // 20)
  end)

  it("as a command line ends with a sentence", function()
    local out = fuzz("fuzz_lines", root .. "/scripts", "lines")
    local done, refused, bad = out:match " 0: (%d+),[^\n]* 2: (%d+),[^\n]* (%d+) bad\n$"
    assert.are.equal("0", bad, out)
    assert.is_true(tonumber(done) > MANY // 10 and tonumber(refused) > MANY // 4, out)
  end)

  it("as a command line that is typed does, too", function()
    local pages = {}
    for _, command in ipairs(lines.COMMANDS) do
      local _, page = support.shell(("%s %s --help"):format(performer, command))
      pages[command] = lines.options(page)
      assert.is_true(#pages[command] > 1, command)
    end
    dice.seed(20261130)
    for _ = 1, TYPED do
      local words = {}
      for i, word in ipairs(lines.make(pages)) do words[i] = "'" .. word .. "'" end
      local line = table.concat(words, " ")
      local code, out, err = support.shell(
        ("cd %s/lines && timeout 100 %s %s </dev/null"):format(folder, performer, line))
      local last = err:match "([^\n]*)\n$" or ""
      local why = lines.judge(code, out .. err) or code ~= 0 and not last:find "^performer: ."
      assert.is_falsy(why, ("performer %s: %s\n%s"):format(line, why, err))
    end
  end)
end)
