-- commands_train_spec.lua - training as its users meet it: the same bits for any number of
-- threads, after Ctrl-C, a kill and another start; --minutes; models of one's own.
local commands = require "spec.support.commands"
local support = require "spec.support"

local assert_sentence, copy, good = commands.assert_sentence, commands.copy, commands.good
local log_of, losses, path = commands.log_of, commands.losses, commands.path
local performer, records, train = commands.performer, commands.records, commands.train
local SMALL = commands.SMALL

-- A model with a layer in Lua.
local SCRIPT = [[
local pf = require "performer"
local nn = pf.nn
local function gate(dim)
  return {
    name = "gate", inner = nn.linear { from = dim, to = dim },
    forward = function(self, x) return x * self.inner(x):sigmoid() end,
    step = function(self, x) return x * self.inner(x):sigmoid() end,
  }
end
return function(options)
  return nn.chain {
    nn.embedding { vocab = options.vocab, dim = options.dim },
    nn.block { dim = options.dim, heads = options.heads, causal = true,
               kernel = { name = "softmax", features = options.features } },
    gate(options.dim),
    nn.linear { from = options.dim, to = options.vocab },
  }
end
]]

describe("the commands", function()
  local book

  setup(function()
    commands.start()
    book = commands.train_book()
  end)

  teardown(commands.stop)

  describe("exactness", function()
    local more -- the run whose bits all others must have
    local reference

    setup(function()
      more = ("--data %s --steps 150 --eval-every 20 --log-every 1 --dropout 0.1 --redraw 7")
        :format(path "p.fasta")
      reference = losses(train("one", more .. " --threads 1"))
      assert.are.equal(150, select(2, reference:gsub("\n", "")))
      assert.is_truthy(reference:find "\n140 loss %S+ valid_loss %S+\n")
    end)

    it("gives the same losses with 1, 2 and 4 threads", function()
      for _, threads in ipairs { 2, 4 } do
        local run = train("threads" .. threads, ("%s --threads %d"):format(more, threads))
        assert.are.equal(reference, losses(run))
      end
    end)

    --- Starts a run, sends it a signal once `file` is there, and waits: exit code, stderr.
    local function signalled(name, signal, file, options)
      local run = path(name)
      return run, support.shell(([[
        OMP_WAIT_POLICY=passive %s/bin/performer train --out %s %s %s &
        n=0
        while [ ! -s %s/%s ] && [ $n -lt 1000 ]; do sleep 0.01; n=$((n + 1)); done
        kill -%s $!
        wait $!]]):format(support.build, run, SMALL, options or more .. " --threads 1", run, file,
        signal))
    end

    it("goes on exactly after Ctrl-C", function()
      local run, code, _, err = signalled("interrupted", "INT", "log.jsonl")
      assert.are.equal(130, code)
      assert_sentence(err, "stopped at step %d+; go on with: %S+performer train %-%-resume /")
      local step = math.tointeger(err:match "stopped at step (%d+)")
      assert.is_true(step < 150)
      assert.are.equal(("step-%d\n"):format(step), support.read(run .. "/LATEST"))
      good(("eval --checkpoint %s --data %s"):format(run, path "p.fasta"))
      local command = err:match "go on with: %S+performer ([^\n]+)"
      good(command .. " --threads 2")
      assert.are.equal(reference, losses(run))
    end)

    it("goes on exactly after Ctrl-C in an evaluation", function()
      -- One row a batch makes evaluating long and a step short.
      local often = ("--data %s --steps 30 --eval-every 1 --log-every 1 --batch 1 --threads 1")
        :format(path "p.fasta")
      local whole = losses(train("often", often))
      local run, code, _, err = signalled("paused", "INT", "log.jsonl", often)
      assert.are.equal(130, code, err)
      good(("train --resume %s --threads 1"):format(run))
      assert.are.equal(whole, losses(run))
    end)

    it("goes on exactly after a kill", function()
      local run, code = signalled("killed", "KILL", "LATEST")
      assert.are_not.equal(0, code)
      assert.is_nil(support.read(run .. "/log.jsonl"):find '"final"')
      good(("train --resume %s --threads 1"):format(run))
      assert.are.equal(reference, losses(run))
    end)

    it("goes on from an older checkpoint in another folder", function()
      good(("train --resume %s/step-140 --out %s --threads 1"):format(path "one", path "fork"))
      assert.are.equal(reference, losses(path "fork"))
      assert.are.equal(reference, losses(path "one"))
    end)

    it("fixes the steps of --minutes, and writes them down", function()
      local run, _, err = train("minutes", ("--data %s --minutes 0.01 --threads 1"):format(
        path "t.txt"))
      local steps = math.tointeger(err:match "steps  (%d+), as many as 0.01 minutes take")
      local log = log_of(run)
      assert.are.equal(steps, log[#log].steps)
      assert.are.equal(steps, log[#log - 1].step)
    end)

    it("resumes a run of --minutes whose steps were not fixed yet", function()
      local run, code, _, err = signalled("early", "INT", "log.jsonl",
        ("--data %s --minutes 0.02 --threads 1"):format(path "t.txt"))
      assert.are.equal(130, code, err)
      good(("train --resume %s --threads 1"):format(run))
      local log = log_of(run)
      assert.is_true(log[#log].final)
      assert.are.equal(log[#log].steps, log[#log - 1].step)
    end)

    it("says that a finished run has finished, and how to train longer", function()
      local out, err = good(("train --resume %s --json"):format(book))
      assert.is_truthy(err:find "has finished its 40 steps; train longer with: .* %-%-steps 80")
      assert.is_true(records(out)[1].final)
      local run = copy(book, "longer")
      good(("train --resume %s --steps 50 --threads 1"):format(run))
      local log = log_of(run)
      assert.are.equal(50, log[#log].step)
      local finals = 0
      for _, record in ipairs(log) do finals = finals + (record.final and 1 or 0) end
      assert.are.equal(1, finals)
    end)

    it("warns when the data is not what the run began with", function()
      support.write(path "other.txt", support.read(path "t.txt") .. "and more\n")
      local _, err = good(("train --resume %s --data %s --steps 45 --threads 1"):format(
        copy(book, "other"), path "other.txt"))
      assert.is_truthy(err:find "is not what the run began with")
    end)
  end)

  describe("models", function()
    it("--bidirectional trains on masks, is evaluated on them, and does not generate", function()
      local lines = {}
      for i = 1, 64 do -- a sequence that a mask's neighbours tell
        lines[i] = (">s%d\n%s\n"):format(i, ("ACDEFGHIKL"):rep(4):sub(1 + i % 10, 20 + i % 17))
      end
      support.write(path "cycle.fasta", table.concat(lines))
      local run = train("masked", ("--data %s --steps 250 --bidirectional --threads 1"):format(
        path "cycle.fasta"))
      local log = log_of(run)
      assert.is_true(log[#log].train_loss < 0.7 * log[1].loss)
      assert.is_true(log[#log].valid_perplexity < log[#log].baseline_perplexity)
      local whole = records((good(("eval --checkpoint %s --data %s --json"):format(run,
        path "cycle.fasta"))))[1]
      assert.is_true(whole.loss < log[1].loss)
      local each = records((good(("eval --checkpoint %s --data %s --per-sequence --json"):format(
        run, path "cycle.fasta"))))
      assert.is_true(each[1].tokens == 20 and each[1].loss < log[1].loss)
      local code, out, err = performer("generate --checkpoint " .. run)
      assert.are.equal(1, code)
      assert.are.equal("", out)
      assert_sentence(err, "bidirectional model.*train one without %-%-bidirectional")
    end)

    it("--model may bring a kernel, and its checkpoints need that script, too", function()
      for called, name in pairs { mine = 'name = "mine", ', custom = "" } do
        local script = support.write(path(called .. ".lua"), ([[
          local pf = require "performer"
          local kernel = pf.kernel.custom { %smap = function(x) return x:elu() + 1 end }
          return function(options)
            return pf.nn.performer { vocab = options.vocab, dim = 16, layers = 1, heads = 2,
                                     causal = true, kernel = kernel }
          end]]):format(name))
        local run = train(called, ("--data %s --steps 2 --threads 1 --model %s"):format(
          path "t.txt", script))
        for _, arguments in ipairs { "generate --checkpoint " .. run,
                                     "train --steps 4 --resume " .. run } do
          local code, _, err = performer(arguments)
          assert.are.equal(1, code)
          assert_sentence(err,
            ("kernel '%s' lives in a script; name that script with %%-%%-model"):format(called))
        end
        good(("generate --checkpoint %s --model %s --tokens 5"):format(run, script))
      end
    end)

    it("--model trains an own architecture, whose checkpoints need their script", function()
      local script = support.write(path "own.lua", SCRIPT)
      local run = train("own", ("--data %s --steps 20 --threads 1 --model %s"):format(path "t.txt",
        script))
      local data = " --data " .. path "t.txt"
      for _, arguments in ipairs { "eval --checkpoint " .. run .. data,
                                   "generate --checkpoint " .. run,
                                   "train --steps 30 --resume " .. run } do
        local code, _, err = performer(arguments)
        assert.are.equal(1, code)
        assert_sentence(err, "layer 'gate' lives in a script; name that script with %-%-model")
      end
      local loss = records((good(("eval --checkpoint %s --model %s --json"):format(run, script)
        .. data)))[1].loss
      assert.is_true(loss < log_of(run)[1].loss)
      good(("generate --checkpoint %s --model %s --tokens 5"):format(run, script))
      good(("train --resume %s --model %s --steps 30 --threads 1"):format(run, script))
      local whole = train("own30", ("--data %s --steps 30 --threads 1 --model %s"):format(
        path "t.txt", script))
      assert.are.equal(log_of(whole)[1].loss, log_of(run)[1].loss)
    end)
  end)
end)
