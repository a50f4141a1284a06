-- commands_run_spec.lua - what a run of train leaves and takes: its folder and nobody else's,
-- checkpoints by the clock, a log that can't be written, going on with other data or for longer.
local commands = require "spec.support.commands"
local lfs = require "lfs"
local support = require "spec.support"

local assert_sentence, copy, exists, good = commands.assert_sentence, commands.copy,
  commands.exists, commands.good
local log_of, losses, path, performer = commands.log_of, commands.losses, commands.path,
  commands.performer
local SMALL, train = commands.SMALL, commands.train
local TINY = SMALL:gsub("%-%-dim 16", "--dim 8") -- its checkpoint is smaller than a log can get

local PROGRAM = support.build .. "/bin/performer"

describe("a run's folder", function()
  setup(commands.start)
  teardown(commands.stop)

  it("loses only what the run wrote", function()
    local run = path "mixed"
    support.shell(([[mkdir -p %s/step-1 %s/step-7 %s && echo mine > %s/step-1/notes.txt &&
      echo mine > %s/table.csv && ln -s %s %s/step-3 && echo mine > %s/step-4]]):format(run, run,
      path "elsewhere", run, path "elsewhere", path "elsewhere", run, run))
    train("mixed", ("--data %s --steps 20 --eval-every 5 --keep 1 --threads 1"):format(
      path "t.txt"))
    for _, file in ipairs { run .. "/step-1/notes.txt", path "elsewhere/table.csv",
                            run .. "/step-3/table.csv", run .. "/step-4" } do
      assert.equal("mine\n", support.read(file))
    end
    assert.is_false(exists(run .. "/step-5/manifest.json"))
    assert.is_true(exists(run .. "/step-20/manifest.json"))
  end)

  it("is refused where somebody's folder has the name of a step to come", function()
    support.shell(("mkdir -p %s/step-10"):format(path "taken"))
    local code, _, err = performer(("train --data %s --out %s %s --steps 20 --eval-every 5"):format(
      path "t.txt", path "taken", SMALL))
    assert.equal(2, code)
    assert_sentence(err, "taken/step%-10 is there already, where this run will save its step 10")
    assert.is_false(exists(path "taken/log.jsonl"))
  end)

  it("is refused where somebody's file has a name that the run writes", function()
    for name, purpose in pairs { ["log.jsonl"] = "write its log", BEST = "mark its best step",
                                 ["loss.svg"] = "draw its picture" } do
      local out = path("theirs-" .. name)
      for _, text in ipairs { "mine\n", '{"mine":1}\n' } do
        support.shell(("mkdir -p %s"):format(out))
        support.write(out .. "/" .. name, text)
        local code, _, err = performer(("train --data %s --out %s %s --steps 2"):format(
          path "t.txt", out, SMALL))
        assert.equal(2, code, err)
        assert_sentence(err, name .. " is there already, where this run will " .. purpose)
        assert.equal(text, support.read(out .. "/" .. name))
      end
    end
    support.shell(("mkdir -p %s"):format(path "begun")) -- ended before its first checkpoint
    support.write(path "begun/log.jsonl", '{"loss":5.5,"step":1}\n{"lo')
    train("begun", ("--data %s --steps 2 --threads 1"):format(path "t.txt"))
    assert.equal(3, #log_of(path "begun"))
  end)

  it("is its own, also for runs that begin in one second", function()
    support.shell(("mkdir -p %s"):format(path "many"))
    local command = ("%s train --data ../t.txt %s --steps 2 --threads 1"):format(PROGRAM, SMALL)
    local code, _, err = support.shell(("cd %s; for i in 1 2 3; do %s & pids=\"$pids $!\"; done; "
      .. "for p in $pids; do wait $p || exit 1; done"):format(path "many", command))
    assert.equal(0, code, err)
    local n = 0
    for name in lfs.dir(path "many/runs") do
      if name:find "^t%-" then
        n = n + 1
        assert.equal(3, #log_of(path("many/runs/" .. name)))
      end
    end
    assert.equal(3, n)
  end)

  it("lets nobody in while the run trains, and lets go when it is killed", function()
    local run = path "busy"
    local options = ("--data %s --steps 40 --eval-every 5 --threads 1"):format(path "t.txt")
    local code, _, err = support.shell(([[
      OMP_WAIT_POLICY=passive %s train --out %s %s %s --steps 1000000 2> /dev/null &
      n=0
      while [ ! -s %s/LATEST ] && [ $n -lt 1000 ]; do sleep 0.01; n=$((n + 1)); done
      before=$(ls -i %s/log.jsonl)
      %s train --resume %s
      code=$?
      [ "$before" = "$(ls -i %s/log.jsonl)" ] || code=99
      kill -KILL $!
      exit $code]]):format(PROGRAM, run, SMALL, options:gsub("%-%-steps 40 ", ""), run, run,
      PROGRAM, run, run))
    assert.equal(1, code, err)
    assert_sentence(err, "a run trains in .*busy right now")
    -- Killed, it has left no lock behind. A host of its own lets go of what is held when it closes.
    assert.equal("true\n", (good(support.write(path "hold.lua",
      ("print(require 'performer'.checkpoint.hold(%q))"):format(run)))))
  end)

  it("is not what a script saves over that says no step", function()
    local run = train("script", ("--data %s --steps 10 --threads 1"):format(path "t.txt"))
    support.write(path "save.lua", ([[
      local pf = require "performer"
      local model = pf.nn.linear { from = 2, to = 2 }
      print(pf.checkpoint.save(%q, { model = model }))
      print(pf.checkpoint.save(%q, { model = model, step = 12 }))]]):format(run, run))
    local out = good(path "save.lua")
    assert.matches("^nil\t.*has come to step 10: say which step.*\tPF_ESTATE\n.*/step%-12\n$", out)
    local code, _, err = performer("train --resume " .. run)
    assert.equal(1, code)
    assert_sentence(err, "newest checkpoint of .* holds no training state.*%-%-resume .*/step%-N")
    good(("train --resume %s/step-10 --steps 12 --threads 1"):format(run))
    assert.equal(12, log_of(run)[#log_of(run)].step)
  end)
end)

describe("a run", function()
  local book

  setup(function()
    commands.start()
    book = commands.train_book()
  end)

  teardown(commands.stop)

  it("saves by the clock, too, with the same bits", function()
    local options = ("--data %s --steps 12 --eval-every 8 --keep 20 --log-every 1 --threads 1")
      :format(path "p.fasta")
    local plain = train("plain", options)
    local often = train("often", options .. " --save-minutes 0")
    assert.equal(losses(plain), losses(often))
    for step = 1, 12 do
      assert.is_true(exists(("%s/step-%d/manifest.json"):format(often, step)))
      assert.equal(step == 8 or step == 12,
                   exists(("%s/step-%d/manifest.json"):format(plain, step)))
    end
    good(("train --resume %s/step-5 --out %s --threads 1"):format(often, path "from5"))
    assert.equal(losses(plain), losses(path "from5"))
    assert.is_true(exists(path "from5/step-6/manifest.json")) -- it keeps its clock
  end)

  it("keeps the work when the log can't be written, and the log is whole when it goes on",
  function()
    local run = path "log"
    local more = ("--data %s --steps 300 --eval-every 1000 --log-every 1 --threads 1"):format(
      path "t.txt")
    local code, _, err = support.shell(("trap '' XFSZ; ulimit -f 64; exec %s train --out %s %s %s")
      :format(PROGRAM, run, TINY, more))
    assert.equal(1, code, err)
    assert_sentence(err, "can't write the log: .*File too large.*; saved at step %d+; go on with: ")
    local step = math.tointeger(err:match "saved at step (%d+)")
    assert.equal(("step-%d\n"):format(step), support.read(run .. "/LATEST"))
    local cut = support.read(run .. "/log.jsonl"):sub(-1) ~= "\n" -- unless a line ends at the limit
    _, err = good(("train --resume %s --threads 1"):format(run))
    assert.equal(cut, err:find "log.jsonl: lines left out that are no records: 1\n" ~= nil)
    good(("train --out %s %s %s"):format(path "whole", TINY, more))
    assert.equal(losses(path "whole"), losses(run))
  end)

  it("ends on a loss that is no number, whatever the gradients are", function()
    local text = support.read "scripts/train.lua":gsub(
      "return logits:cross_entropy%(target%)", "return logits:cross_entropy(target) + 0 / 0")
    local script = support.write(path "nan.lua", text)
    local code, _, err = performer(("%s --data %s --out %s %s --steps 5 --threads 1"):format(script,
      path "t.txt", path "nan", SMALL))
    assert.equal(1, code)
    assert_sentence(err, "train: step 1: forward of affine: its result 'y' .* holds nan.*; try a "
      .. "lower %-%-lr %(it is .*%); no checkpoint was saved yet")
  end)

  it("says that its data is other data of the same size, and judges anew", function()
    local other = support.read(path "t.txt"):gsub("river", "ocean")
    support.write(path "same.txt", other)
    local run = copy(book, "swapped")
    local _, err = good(("train --resume %s --data %s --steps 42 --threads 1"):format(run,
      path "same.txt"))
    assert.matches("is not what the run began with %(.*, with other letters%): [^\n]* would have\n",
      err) -- its rate is another run's from here on
    assert.is_nil(err:find("old schedule", 1, true))
    assert.equal("step-42\n", support.read(run .. "/BEST"))
    local cut = train("half", ("--data %s --steps 8 --eval-every 4 --log-every 1 --threads 1")
      :format(path "t.txt"))
    support.shell(("rm -r %s/step-8; echo step-4 > %s/LATEST"):format(cut, cut))
    _, err = good(("train --resume %s --data %s --threads 1"):format(cut, path "same.txt"))
    local rate = err:match "with its old schedule: the learning rate is (%S+) at step 5\n"
    assert.equal(("%.3g"):format(log_of(cut)[5].lr), rate)
    _, err = good(("train --resume %s --steps 44 --threads 1"):format(run)) -- said once
    assert.is_nil(err:find("began with", 1, true))
  end)

  it("says what becomes of the learning rate when it is made longer", function()
    local run = copy(book, "longer")
    local _, err = good(("train --resume %s --steps 80 --log-every 1 --threads 1"):format(run))
    local before, after = err:match
      "learning rate goes from (%S+) at step 40 to (%S+) at step 41, where a run of 80 steps with"
    local log = log_of(run)
    for _, record in ipairs(log) do
      if record.step == 40 then assert.equal(("%.3g"):format(record.lr), before) end
      if record.step == 41 then assert.equal(("%.3g"):format(record.lr), after) end
    end
  end)

  it("has a warm-up that it can finish", function()
    local code, _, err = performer(("train --data %s --steps 10 --warmup 11 --out %s"):format(
      path "t.txt", path "never"))
    assert.equal(2, code)
    assert_sentence(err, "warm%-up of 11 steps is longer than the run of 10 steps.*%-%-warmup")
    assert.is_false(exists(path "never"))
    train("edge", ("--data %s --steps 4 --warmup 4 --log-every 1 --lr 0.004 --threads 1"):format(
      path "t.txt"))
    assert.equal(0.004, log_of(path "edge")[4].lr)
    local run
    run, _, err = train("minutes", ("--data %s --minutes 0.01 --warmup 1000000 --log-every 1 "
      .. "--threads 1"):format(path "t.txt"))
    local steps, warmup = err:match "steps  (%d+), as many as .* take, (%d+) of them warm%-up"
    assert.equal(math.max(1, steps // 4), math.tointeger(warmup))
    local log = log_of(run)
    assert.is_true(log[#log - 1].lr < 0.1 * 4e-3) -- it has come down again
    code, _, err = performer(("train --resume %s --steps 50"):format(copy(book, "short")))
    assert.equal(0, code, err)
  end)

  it("says that counting still does better, and how to go on", function()
    local run, _, err = train("beaten", ("--data %s --steps 1 --threads 1"):format(path "p.fasta"))
    assert.matches("mere counting does better so far, the model needs longer; go on with: "
      .. "%S+performer train %-%-resume " .. run:gsub("%p", "%%%0") .. " %-%-steps 4", err)
  end)

  it("tells commands by the word that it was called by", function()
    local words = ("train %s --steps 1 --threads 1 --out %%s %s"):format(path "t.txt", SMALL)
    for _, word in ipairs { "./performer", "performer" } do
      local code, _, err = support.shell(("cd %s/bin; PATH=$PWD:$PATH %s %s"):format(support.build,
        word, words:format(path("called" .. #word))))
      assert.equal(0, code, err)
      assert.equal(word, err:match "\nreport +(%S+) report ")
    end
  end)
end)
