-- commands_failures_spec.lua - what goes wrong in the middle of training: one sentence, and nothing
-- that was trained is lost.
local commands = require "spec.support.commands"
local support = require "spec.support"

local exists, good, losses = commands.exists,
  commands.good, commands.losses
local path, performer, train = commands.path, commands.performer, commands.train

-- A model with a layer in Lua; FAULT is what the layer does in its tenth call in training.
local SCRIPT = [[
local pf = require "performer"
local nn = pf.nn
local calls = 0
return function(options)
  return nn.chain {
    nn.embedding { vocab = options.vocab, dim = options.dim },
    nn.block { dim = options.dim, heads = options.heads, causal = true, dropout = 0.1 },
    { name = "gate", inner = nn.linear { from = options.dim, to = options.dim },
      forward = function(self, x, pass)
        calls = calls + (pass.training and 1 or 0)
        if pass.training and calls == 10 then
          FAULT
        end
        return x * self.inner(x):sigmoid()
      end },
    nn.linear { from = options.dim, to = options.vocab },
  }
end
]]

--- The script with `fault` at its line 12, as a file.
local function script(name, fault)
  return support.write(path(name), (SCRIPT:gsub("FAULT", function() return fault end)))
end

describe("a failure in training", function()
  local more, whole

  setup(function()
    commands.start()
    more = ("--data %s --steps 14 --eval-every 6 --log-every 1 --threads 1"):format(path "t.txt")
    whole = losses((train("whole", ("%s --model %s"):format(more, script("sound.lua", "")))))
  end)

  teardown(commands.stop)

  it("in a layer of one's own names file and line, and goes on to the bit once it is mended",
  function()
    for name, fault in pairs { index = "local t; return t.x", op = "return x:matmul(pf.ones(3, 3))",
                               raised = "error 'too wide'" } do
      local run, file = path(name), script(name .. ".lua", fault)
      local code, _, err = performer(("train --out %s %s %s --model %s"):format(run,
        commands.SMALL, more, file))
      assert.equal(1, code)
      assert.is_nil(err:find("traceback", 1, true), err)
      local last = err:match "([^\n]*)\n$"
      assert.is_truthy(last:find(("performer: %s:12: "):format(file), 1, true), last)
      assert.matches("; saved at step 9; go on with: %S+performer train %-%-resume ", last)
      assert.equal("step-9\n", support.read(run .. "/LATEST"))
      script(name .. ".lua", "")
      good(last:match "go on with: %S+performer (.*)" .. " --threads 1")
      assert.equal(whole, losses(run))
    end
  end)

  it("that makes numbers no numbers names layer, op and step, and the last checkpoint stands",
  function()
    for name, fault in pairs {
      forward = "x = x * (x * 0):log()", backward = "x = x + (x * 0):sqrt() * 0" } do
      local file = script(name .. ".lua", "")
      support.write(file, (support.read(file):gsub("== 10 then", function()
        return ">= 10 then " .. fault -- again in the run that looks for it
      end)))
      local run = path(name)
      local code, _, err = performer(("train --out %s %s %s --model %s"):format(run,
        commands.SMALL, more, file))
      assert.equal(1, code)
      commands.assert_sentence(err, ("train: step 10: %s of %%a+ in 3[:.].*; try a lower %%-%%-lr "
        .. "%%(it is 0.004, and [%%d.]+ at this step%%); the last good checkpoint stands; go on "
        .. "with: "):format(name))
      assert.equal("step-6\n", support.read(run .. "/LATEST"))
    end
  end)

  it("that makes the held-out loss no number ends the run", function()
    for name, steps in pairs { passing = 14, last = 5 } do
      local file = script(name .. ".lua", "")
      support.write(file, (support.read(file):gsub("calls = calls", function()
        return "if not pass.training then return x * (0 / 0) end\n calls = calls"
      end)))
      local run = path(name)
      local code, _, err = performer(("train --out %s %s %s --steps %d --model %s"):format(run,
        commands.SMALL, more, steps, file))
      assert.equal(1, code)
      commands.assert_sentence(err, ("train: step %d: the held%%-out loss is %%-?nan, though the "
        .. "training loss is [%%d.]+; "):format(math.min(6, steps)))
    end
  end)

  it("whose cause does not come again says what was no number", function()
    local file = script("once.lua", "x = x * (x * 0):log()")
    local code, _, err = performer(("train --out %s %s %s --model %s"):format(path "once",
      commands.SMALL, more, file))
    assert.equal(1, code)
    commands.assert_sentence(err, "train: step 10: the gradient of '.*' is not finite; try a lower "
      .. "%-%-lr %(it is .*%); the last good checkpoint stands; ")
  end)

  it("for want of memory keeps the steps before", function()
    local run = path "budget"
    local file = script("hungry.lua", "x = pf.zeros(4000, 4000)")
    local code, _, err = performer(("train --out %s %s %s --memory 20M --model %s"):format(run,
      commands.SMALL, more, file))
    assert.equal(1, code)
    assert.matches("out of memory: asked .*; saved at step 9; go on with: [^\n]*\n$", err)
  end)

  it("in a loss of one's own keeps the steps before, too", function()
    local text = support.read "scripts/train.lua":gsub("return logits:cross_entropy%(target%)",
      "count = (count or 0) + 1; if count == 4 then return count.x.y end; %0")
    local file = support.write(path "loss.lua", text)
    local run = path "own"
    local code, _, err = performer(("%s --out %s %s %s"):format(file, run, commands.SMALL, more))
    assert.equal(1, code)
    assert.matches("loss%.lua:%d+: attempt to index", err)
    assert.matches("\nsaved at step 3; go on with: %S+performer [^\n]*loss%.lua %-%-resume "
      .. "[^\n]*\n$", err)
  end)

  it("in the first step has nothing to keep", function()
    local run = path "first"
    local file = script("first.lua", "error 'no'")
    support.write(file, (support.read(file):gsub("calls == 10", "calls == 1")))
    local code, _, err = performer(("train --out %s %s %s --model %s"):format(run, commands.SMALL,
      more, file))
    assert.equal(1, code)
    assert.matches("first%.lua:12: layer 3: no; no checkpoint was saved yet\n$", err)
    assert.is_false(exists(run .. "/LATEST"))
  end)
end)
