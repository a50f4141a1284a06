-- ranks_checkpoint_spec.lua - a checkpoint on several ranks, of which rank 0 alone has the folder:
-- in how little memory the others open it, that they get the same bits, and what becomes of all
-- when it fails for one of them midway.
local commands = require "spec.support.commands"
local mpirun = require "spec.support.ranks"
local support = require "spec.support"

local good, path = commands.good, commands.path
local several = mpirun.several(it, pending)

-- A layer in Lua; what HOW says happens on rank 1 when it has read of what kind the model is, and
-- before it reads its numbers.
local MODEL = [[
local pf = require "performer"
local _, rank = pf.ranks.launched()
local how = rank == 1 and os.getenv "HOW" or ""
return function(o)
  if how ~= "" then assert(os.execute(how)) end
  local layer = { w = pf.full({ 16 }, 0.5) }
  function layer.forward(self, x) return x * self.w end
  return pf.nn.chain { pf.nn.embedding { vocab = o.vocab, dim = 16 }, layer,
    pf.nn.block { dim = 16, heads = 2, causal = true },
    pf.nn.linear { from = 16, to = o.vocab } }
end]]

describe("a checkpoint that rank 0 alone has", function()
  setup(function()
    commands.start()
    support.write(path "own.lua", MODEL)
  end)
  teardown(commands.stop)

  local function train(run, more)
    good(("train %s --out %s --length 32 --batch 6 --lanes 6 --steps 3 --threads 1 %s"):format(
      path "t.txt", path(run), more))
  end

  --- A command line of each rank, `more` of rank 1: those but the first stand in a folder that has
  -- no run.
  local function start(n, arguments, before, more)
    support.shell("mkdir -p " .. path "empty")
    local lines = {}
    for rank = 0, n - 1 do
      lines[#lines + 1] = ("sh -c 'cd %s && exec %s/bin/performer %s %s'"):format(
        rank == 0 and path "" or path "empty", support.build, arguments, rank == 1 and more or "")
    end
    return support.shell((before or "") .. " " .. mpirun.apart(table.unpack(lines)))
  end

  -- In multiples of the weights, beside which this takes little: the checkpoint's files are three.
  several("takes the other ranks no room for its files", function()
    train("wide", "--steps 2 --dim 256 --layers 4 --heads 4 --features 64 --eval-every 2")
    local weights = #support.read(path "wide/step-2/model.safetensors")
    local function fits(line, times)
      local most = ("--memory %d"):format(times * weights + (6 << 20))
      local code, out, err = start(2, line, nil, most)
      assert.equal(0, code, line .. ": " .. out .. err)
    end
    fits("eval wide " .. path "t.txt", 1)
    fits("train --resume wide --steps 3", 5) -- gradients, of the lanes too, and half of the moments
  end)

  several("gives each the same bits, also of averages and layers in Lua", function()
    for name, more in pairs {
      plain = "--dim 16 --layers 1 --heads 2 --features 16 --ema 0.9 --redraw 2",
      own = "--model " .. path "own.lua" } do
      train(name, more)
      local script = name == "own" and "--model " .. path "own.lua" or ""
      local run = path(name)
      support.shell(("cp -r %s %s.alone"):format(run, run))
      good(("train --resume %s.alone %s --steps 5"):format(run, script))
      local code, _, err = start(3, ("train --resume %s %s --steps 5"):format(name, script))
      assert.equal(0, code, err)
      assert.same(mpirun.bytes(run .. ".alone"), mpirun.bytes(run))
      local line = ("eval %s %s --json --threads 1 %s"):format(name, path "t.txt", script)
      local _, alone = support.shell(("cd %s && %s/bin/performer %s"):format(path "", support.build,
        line))
      local out
      code, out, err = start(3, line)
      assert.equal(0, code, err)
      assert.equal(commands.records(alone)[1].loss, commands.records(out)[1].loss)
    end
  end)

  --- What `how` on rank 1 brings about: the code, and what is said once for all.
  local function broken(run, how, more)
    train(run, "--model " .. path "own.lua")
    local code, _, err = start(3, ("train --resume %s --model %s --steps 5 %s"):format(run,
      path "own.lua", more or ""), ("HOW='%s'"):format(how))
    return code, err
  end

  several("fails on all where a file goes away or is cut off midway", function()
    local code, err = broken("gone", "rm " .. path "gone/step-3/optimizer.safetensors")
    assert.equal(1, code, err)
    assert.matches("rank 1 of 3 on %S+: .*optimizer.safetensors in .* is missing", err)
    code, err = broken("short", "truncate -s -4 " .. path "short/step-3/model.safetensors")
    assert.equal(1, code, err)
    assert.matches("rank 1 of 3 on %S+: .*model.safetensors in .* is damaged %(%d+ bytes", err)
    code, err = broken("none", "rm -r " .. path "none/step-3")
    assert.equal(1, code, err)
    local _, times = err:gsub("rank 1 of 3 on ", "")
    assert.equal(1, times, err)
  end)

  several("fails on all where one of them has no memory for it", function()
    train("small", "--dim 64 --layers 2 --heads 2 --features 16")
    local code, _, err = start(3, "train --resume small --steps 5", nil, "--memory 400K")
    assert.equal(1, code, err)
    assert.matches("rank 1 of 3 on %S+: .*memory", err)
  end)

  several("ends with 75 where one of them does not answer", function()
    local code, err = broken("stopped", "kill -STOP $PPID", "--timeout 4")
    assert.equal(75, code, err)
    assert.matches("no answer from rank 1 of 3", err)
  end)
end)
