-- commands_average_spec.lua - train --ema: the average of the weights is what is judged, saved, and
-- taken by the commands; --group: options for some of the parameters.
local commands = require "spec.support.commands"
local pf = require "performer"
local support = require "spec.support"

local assert_sentence, exists, good, log_of = commands.assert_sentence, commands.exists,
  commands.good, commands.log_of
local losses, path, performer, records = commands.losses, commands.path, commands.performer,
  commands.records
local train = commands.train

describe("the average of the weights", function()
  local run, more

  setup(function()
    commands.start()
    more = ("--data %s --steps 30 --eval-every 10 --log-every 1 --lr 0.02 --warmup 5 --dropout 0.1 "
      .. "--redraw 7 --keep 99 --threads 1"):format(path "t.txt")
    run = train("averaged", more .. " --ema 0.9")
  end)

  teardown(commands.stop)

  --- What eval says of the held-out part of a checkpoint.
  local function judged(checkpoint, arguments)
    return records((good(("eval --checkpoint %s --data %s --split valid --json %s"):format(
      checkpoint, path "t.txt", arguments or ""))))[1].loss
  end

  it("is what is judged, and what eval and generate take", function()
    local log = log_of(run)
    assert.near(log[#log].valid_loss, judged(run), 1e-6)
    assert.is_true(math.abs(judged(run, "--average off") - log[#log].valid_loss) > 1e-4)
    local plain = log_of(train("weights", more))
    for step = 1, 30 do assert.equal(plain[step].loss, log[step].loss) end -- it changes no training
    assert.near(plain[#plain].valid_loss, judged(run, "--average off"), 1e-6)
    local function text(arguments)
      return (good(("generate --checkpoint %s --tokens 60 --temperature 0 %s"):format(run,
        arguments)))
    end
    local again = good(("generate --checkpoint %s/average --tokens 60 --temperature 0"):format(run))
    assert.equal(again, text "")
    assert.are_not.equal(again, text "--average off")
  end)

  it("is what score and embed take, and train --init with a script", function()
    local function first(command, arguments)
      return records((good(("%s --data %s --json %s"):format(command, path "t.txt", arguments))))[1]
    end
    local function each(command, field)
      local of = command .. " --checkpoint " .. run
      local own = first(of .. "/average", "")[field]
      assert.are.same(own, first(of, "")[field])
      assert.are_not.same(own, first(of, "--average off")[field])
    end
    each("score", "loss")
    each("embed", "vector")
    local script = support.write(path "same.lua", [[return function(o)
      return require("performer").nn.performer { vocab = o.vocab, dim = o.dim, layers = 1,
                                                 heads = o.heads, causal = true,
                                                 kernel = { features = o.features } }
    end]])
    local _, _, err = train("made", ("--data %s --steps 1 --init %s --model %s"):format(
      path "t.txt", run, script))
    assert.truthy(err:find "init   of the average of the weights", err)
  end)

  it("is saved as a model of its own at the end", function()
    local log = log_of(run)
    assert.near(log[#log].valid_loss, judged(run .. "/average"), 1e-6)
    local opened = assert(pf.checkpoint.load(run))
    opened.optimizer:use_average(true)
    local average = assert(pf.checkpoint.model(run .. "/average")):tensors()
    for name, t in pairs(opened.model:tensors()) do
      assert.equal(t:tobytes(), average[name]:tobytes(), name)
    end
  end)

  it("goes on to the bit, and is kept while an evaluation saves by the clock", function()
    for _, step in ipairs { 10, 20 } do
      local part = path("part" .. step)
      good(("train --resume %s/step-%d --out %s --threads 1"):format(run, step, part))
      assert.equal(losses(run), losses(part))
      for _, file in ipairs { "step-30/model", "step-30/optimizer", "average/step-30/model" } do
        assert.equal(support.read(("%s/%s.safetensors"):format(run, file)),
                     support.read(("%s/%s.safetensors"):format(part, file)), file)
      end
    end
    local often = train("often", more .. " --ema 0.9 --save-minutes 0")
    assert.equal(losses(run), losses(often))
    assert.equal(support.read(run .. "/step-30/optimizer.safetensors"),
                 support.read(often .. "/step-30/optimizer.safetensors"))
  end)

  it("gives the weights back when an evaluation is stopped", function()
    -- One row a batch makes evaluating long and a step short.
    local often = ("--data %s --steps 20 --eval-every 1 --log-every 1 --batch 1 --ema 0.9 "
      .. "--threads 1")
      :format(path "p.fasta")
    local paused, reference = path "paused", train("unpaused", often)
    local code, _, err = support.shell(([[
      OMP_WAIT_POLICY=passive %s/bin/performer train --out %s %s %s &
      n=0
      while [ ! -s %s/log.jsonl ] && [ $n -lt 1000 ]; do sleep 0.01; n=$((n + 1)); done
      kill -TERM $!
      wait $!]]):format(support.build, paused, commands.SMALL, often, paused))
    assert.equal(130, code, err)
    good(("train --resume %s --threads 1"):format(paused))
    assert.equal(losses(reference), losses(paused))
    assert.equal(support.read(reference .. "/step-20/optimizer.safetensors"),
                 support.read(paused .. "/step-20/optimizer.safetensors"))
  end)

  it("of a model with a layer in Lua is taken, too", function()
    local script = support.write(path "own.lua", [[
      local pf = require "performer"
      return function(options)
        local inner = pf.nn.linear { from = 16, to = 16 }
        return pf.nn.chain { pf.nn.embedding { vocab = options.vocab, dim = 16 },
          { name = "gate", inner = inner, forward = function(_, x) return x * inner(x) end },
          pf.nn.linear { from = 16, to = options.vocab } }
      end]])
    local own = train("own", ("%s --ema 0.9 --redraw 0 --model %s"):format(more, script))
    local log = log_of(own)
    assert.near(log[#log].valid_loss, judged(own, "--model " .. script), 1e-6)
    assert.is_true(math.abs(judged(own, "--average off --model " .. script)
      - log[#log].valid_loss) > 1e-5)

    -- A damaged header hides neither the script's settings nor the average of an older checkpoint.
    for _, case in ipairs { { own, "--model " .. script }, { run, "" } } do
      local sound = judged(case[1] .. "/step-20", case[2])
      local file = case[1] .. "/step-30/model.safetensors"
      local bytes = support.read(file)
      support.write(file, (bytes:gsub('"dtype"', '"xtype"', 1)))
      assert.near(sound, judged(case[1], case[2]), 1e-6)
      local _, err = good(("train --resume %s --steps 31 --out %s %s"):format(case[1],
        path("mended-" .. case[1]:match "[^/]+$"), case[2]))
      assert.truthy(err:find("going on with step-20", 1, true), err)
      support.write(file, bytes)
    end
  end)
end)

describe("a group of parameters", function()
  setup(commands.start)
  teardown(commands.stop)

  it("has options of its own, the first that fits", function()
    local more = ("--data %s --steps 6 --eval-every 3 --log-every 1 --threads 1"):format(
      path "t.txt")
    local run = train("groups", more .. " --group embedding:lr_scale=0 --group '*:decay=0.3'")
    local first = assert(pf.checkpoint.model(run .. "/step-3")):tensors()
    local last = assert(pf.checkpoint.model(run)):tensors()
    for name, t in pairs(first) do
      local still = t:tobytes() == last[name]:tobytes()
      if name == "embedding.weight" then assert.is_true(still) end
      if name:find "mlp.*weight" then assert.is_false(still, name) end
    end
    good(("train --resume %s/step-3 --out %s --threads 1"):format(run, path "part"))
    assert.equal(losses(run), losses(path "part"))
    assert.are_not.equal(losses(train("plain", more)), losses(run))
  end)

  it("is refused in one sentence where it fits nothing", function()
    for arguments, told in pairs {
      ["--group xembedding:decay=0"] = "%-%-group, number 1: .*xembedding.* fits no parameter",
      ["--group embedding"] = "%-%-group: 'embedding' is no group: write PATTERN:option=value",
      ["--group embedding:lr=3"] = "%-%-group, number 1: unknown option 'lr'",
      ["--group '*:decay=0' --group mlp:decay=much"] = "%-%-group, number 2: 'decay' must be",
    } do
      local code, _, err = performer(("train --data %s --steps 3 --out %s %s"):format(path "t.txt",
        path "never", arguments))
      assert.equal(2, code, arguments .. err)
      assert_sentence(err, told)
      assert.is_false(exists(path "never"))
    end
  end)
end)
