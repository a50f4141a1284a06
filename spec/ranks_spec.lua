-- ranks_spec.lua - `train` and `eval` over several ranks: the same bytes on any number of them,
-- also after going on with another number, and one sentence when one of them fails. Those of
-- several need mpirun, and the plugin that is built where an MPI is.
local commands = require "spec.support.commands"
local mpirun = require "spec.support.ranks"
local support = require "spec.support"

local good, path, performer = commands.good, commands.path, commands.performer
local assert_sentence = commands.assert_sentence

local start = mpirun.start
local several = mpirun.several(it, pending)

describe("train in lanes", function()
  setup(commands.start)
  teardown(commands.stop)

  local function arguments(out, more)
    return ("train %s --out %s --length 32 --dim 16 --layers 1 --heads 2 --features 16 --batch 4 "
      .. "--lanes 4 --dropout 0.1 --eval-every 6 --log-every 1 --threads 1 %s"):format(path "t.txt",
      path(out), more or "--steps 12")
  end

  local function bytes(out) return mpirun.bytes(path(out)) end

  it("is another sum than without, and nearly the same", function()
    good(arguments("lanes", "--steps 12 --dropout 0"))
    good(arguments("whole", "--steps 12 --dropout 0 --lanes 1"))
    local a, b = commands.log_of(path "lanes"), commands.log_of(path "whole")
    for i = 1, 12 do assert.near(b[i].loss, a[i].loss, 1e-4) end
    assert.not_equal(bytes("lanes")[1], bytes("whole")[1])
  end)

  it("goes on with --continue, or begins", function()
    good(arguments("straight"))
    good(arguments("begun", "--steps 12 --continue"))
    assert.same(bytes "straight", bytes "begun")
    support.remove(path "begun/step-12")
    support.write(path "begun/LATEST", "step-6\n")
    good(arguments("begun", "--steps 12 --continue"))
    assert.same(bytes "straight", bytes "begun")
    support.remove(path "begun/step-12")
    for _, name in ipairs { "LATEST", "BEST", "loss.svg" } do
      support.remove(path("begun/" .. name))
    end
    good(arguments("begun", "--steps 12 --continue")) -- killed before LATEST named the first
    assert.same(bytes "straight", bytes "begun")
    local code, _, err = performer(arguments("begun", "--steps 12 --continue --heads 1"))
    assert.equal(2, code)
    assert_sentence(err, "has %-%-heads 2, and the command says 1")
  end)

  it("refuses what lanes can't be", function()
    for more, message in pairs {
      ["--batch 6"] = "%-%-batch 6 is not divided by its 4 lanes; try %-%-lanes 3, or %-%-batch 8",
      ["--row-ranks 2"] = "%-%-row%-ranks is for rows in parts",
      ["--segments 2 --row-ranks 2"] = "%-%-row%-ranks 2 does not divide the 1 rank",
      ["--segments 16000 --batch 8 --lanes 8"] = "at most 65535",
      ["--timeout 0"] = "%-%-timeout must be more than 0",
      ["--continue --resume " .. path "straight"] = "not both",
    } do
      local code, _, err = performer(arguments("refused", "--steps 2 " .. more))
      assert.equal(2, code)
      assert_sentence(err, message)
    end
  end)

  --- The same run with its rows in three segments.
  local function segments(out, more)
    return ("train %s --out %s --length 64 --dim 16 --layers 2 --heads 2 --features 16 --batch 2 "
      .. "--segments 3 --dropout 0.1 --eval-every 6 --threads 1 %s"):format(path "t.txt", path(out),
      more or "--steps 12 --attention softmax_plus")
  end

  it("has segments of rows for lanes, with nearly the gradient of whole rows", function()
    good(segments("parts", "--steps 6 --dropout 0 --log-every 1"))
    good(segments("chain", "--steps 6 --dropout 0 --log-every 1 --segment-form chain"))
    good((segments("rows", "--steps 6 --dropout 0 --log-every 1"):gsub("%-%-segments 3", "")))
    local parts, chain = commands.log_of(path "parts"), commands.log_of(path "chain")
    for i, record in ipairs(commands.log_of(path "rows")) do
      if record.loss then
        assert.near(record.loss, parts[i].loss, 1e-4)
        assert.near(record.norm, parts[i].norm, 2e-3)
        assert.near(record.loss, chain[i].loss, 1e-4)
      end
    end
    for more, message in pairs {
      ["--segments 8"] = "leaves 8 positions .* at least 16; try %-%-segments 4",
      ["--accumulate 2"] = "goes without %-%-accumulate",
      ["--bidirectional"] = "goes without %-%-bidirectional",
      ["--attention sliding --window 8"] = "segments",
    } do
      local code, _, err = performer(segments("refused", "--steps 2 " .. more))
      assert.not_equal(0, code)
      assert_sentence(err, message)
    end
  end)

  several("has the same bytes in segments on 1, 2 and 3 ranks", function()
    good(segments "whole3")
    for n = 2, 3 do
      local code, _, err = start(n, segments("part" .. n))
      assert.equal(0, code, err)
      assert.same(bytes "whole3", bytes("part" .. n))
    end
  end)

  several("has the same bytes however ranks share its rows, and goes on so", function()
    local more = "--steps 12 --lanes 2 --attention softmax_plus --ngrams 2 "
    good(segments("pairs1", more))
    for n, share in pairs { [2] = "--row-ranks 1", [3] = "", [6] = "--row-ranks 3" } do
      local code, _, err = start(n, segments("pairs" .. n, more .. share))
      assert.equal(0, code, err)
      assert.same(bytes "pairs1", bytes("pairs" .. n))
    end
    local code, _, err = start(6, segments("pairs", more:gsub("12", "6", 1)))
    assert.equal(0, code, err)
    assert.truthy(err:find("rows in 3 segments, 2 at a time, each shared by 3 ranks", 1, true), err)
    code, _, err = start(2, ("train --resume %s --steps 12 --threads 1"):format(path "pairs"))
    assert.equal(0, code, err)
    code, _, err = start(4, ("train --resume %s --steps 13 --row-ranks 3"):format(path "pairs"))
    assert.equal(2, code)
    assert.truthy(err:find("--row-ranks 3 does not divide the 4 ranks; leave it out, or start 6", 1,
                           true), err)
    code, _, err = start(5, ("train --resume %s --steps 13"):format(path "pairs"))
    assert.equal(2, code) -- its lanes stay
    assert.truthy(err:find("3 segments at a time; start 4 ranks, or 6", 1, true), err)
  end)

  several("tells of attention that looks at keys what has no states of rows", function()
    local code, _, err = start(3, segments("keys", "--steps 2 --attention exact"))
    assert.equal(1, code, err)
    assert.matches("causal models with linear attention; .*take attention = \"favor\"", err)
  end)

  --- How a run ends whose steps are far too large, from the step on.
  local function not_finite(run, more, ranks)
    local words = segments(run, "--steps 20 --dropout 0 --lr 1e6 --warmup 0 --optimizer sgd "
      .. "--clip 1e9 " .. more)
    local code, err, _
    if ranks then
      code, _, err = start(ranks, words)
    else
      code, _, err = performer(words)
    end
    assert.equal(1, code, err)
    return assert(err:match "performer: train: (step %d+: [^\n]-); try a lower", err)
  end

  it("tells in which layer and segment a number arose that is none", function()
    for _, more in ipairs { "", "--segment-form chain ", "--lanes 2 " } do
      assert.matches("^step %d+: %l+ward of [%w_]+ in blocks%.%d[%w.]*, segment %d: .* holds ",
                     not_finite("none", more))
      support.remove(path "none")
    end
  end)

  several("tells it with the same words on 1, 2 and 3 ranks", function()
    for _, more in ipairs { "", "--segment-form chain ", "--lanes 2 " } do
      local told = not_finite("none", more)
      support.remove(path "none")
      for n = 2, 3 do
        assert.equal(told, not_finite("none", more, n))
        support.remove(path "none")
      end
    end
  end)

  it("is silent where a launcher ends a rank that is not the first", function()
    support.write(path "ended.lua", "os.execute 'kill -TERM $PPID' while true do end")
    for rank, said in pairs { [0] = "performer: interrupted\n", [1] = "" } do
      local code, _, err = performer(path "ended.lua", ("OMPI_COMM_WORLD_SIZE=2 "
        .. "OMPI_COMM_WORLD_RANK=%d"):format(rank))
      assert.same({ 130, said }, { code, err })
    end
  end)

  it("warns of a single rank that a launcher has bound to one core", function()
    local code, _, err = support.shell(("OMPI_COMM_WORLD_SIZE=1 OMPI_COMM_WORLD_RANK=0 taskset "
      .. "-c 0 %s/bin/performer %s"):format(support.build, arguments("bound", "--steps 1")))
    assert.equal(0, code, err)
    assert.is_truthy(err:find("the one rank is bound to 1 of %d+ cores: add %-%-bind%-to none"),
                     err)
    for _, before in ipairs { "", "OMPI_COMM_WORLD_SIZE=1" } do -- free, or by no launcher
      code, _, err = support.shell(("%s %s %s/bin/performer %s"):format(before, before == ""
        and "taskset -c 0" or "", support.build, arguments("free" .. #before, "--steps 1")))
      assert.equal(0, code, err)
      assert.is_nil(err:find "%-%-bind%-to none", err)
    end
  end)

  it("does not run alone where a launcher has started several", function()
    local code, _, err = performer(arguments "alone",
      "OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_RANK=0 PERFORMER_TRANSPORT=/no/such/file.so")
    assert.equal(2, code)
    assert_sentence(err, "started as 2 ranks, each of which would train alone")
    assert.is_false(commands.exists(path "alone/log.jsonl"))
    code, _, err = performer(arguments "alone",
      "OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_RANK=1 PERFORMER_TRANSPORT=/no/such/file.so")
    assert.equal(2, code) -- mpirun has not ended it: rank 0 is none of those that say this
    assert_sentence(err, "rank 1 of 2 on [^:]+: ranks: started as 2 ranks")
  end)

  several("has the same bytes on 1, 2, 3 and 4 ranks", function()
    good(arguments "one")
    for n = 2, 4 do
      local code, _, err = start(n, arguments("of" .. n))
      assert.equal(0, code, err)
      assert.same(bytes "one", bytes("of" .. n))
      local first = commands.log_of(path("of" .. n))[1]
      assert.equal(n, first.ranks)
      assert.is_true(first.wait_s >= 0 and first.slowest >= 0 and first.slowest < n)
    end
  end)

  --- The checkpoint's bytes, with what rows go on from.
  local function carried_bytes(out)
    local list = bytes(out)
    list[#list + 1] = support.read(("%s/%s/carried.safetensors"):format(path(out),
      support.read(path(out) .. "/LATEST"):match "%S+"))
    return list
  end

  several("carries what rows have seen with their lanes, and goes on with any number", function()
    for name, more in pairs { sums = "--steps 12 --carry 64 --batch 16 --lanes 8 --conv 4 "
                                .. "--accumulate 2",
                              keys = "--steps 12 --carry 48 --attention sliding --window 24",
                              rows = "--steps 12 --carry 48 --attention sliding --window 24 "
                                .. "--carry-form rows --sliced 2" } do
      good(arguments(name .. 1, more))
      local want = carried_bytes(name .. 1)
      assert.equal(4, #want)
      for _, n in ipairs(name == "sums" and { 2, 3, 4, 5, 8 } or { 2, 3, 4 }) do
        local threads = n % 3 == 2 and " --threads 2" or ""
        local code, _, err = start(n, arguments(name .. n, more .. threads))
        assert.equal(0, code, err)
        assert.same(want, carried_bytes(name .. n))
      end
      for _, n in ipairs { 3, 2, 1 } do
        support.remove(path(name .. 4) .. "/step-12")
        support.write(path(name .. 4) .. "/LATEST", "step-6\n")
        local code, _, err = start(n, ("train --resume %s --threads 1"):format(path(name .. 4)))
        assert.equal(0, code, err)
        assert.same(want, carried_bytes(name .. 4))
      end
    end
    local code, _, err = start(5, ("train --resume %s --steps 20"):format(path "keys1"))
    assert.equal(2, code)
    assert.truthy(err:find("the run has 4 lanes, so it goes on with at most 4 ranks", 1, true), err)
  end)

  several("moves centroids by the rows of all ranks", function()
    local more = "--steps 12 --attention routing --clusters 4"
    good(arguments("routes1", more))
    for n = 2, 4 do
      local code, _, err = start(n, arguments("routes" .. n, more))
      assert.equal(0, code, err)
      assert.same(bytes "routes1", bytes("routes" .. n))
    end
  end)

  --- The run as it was after its sixth step.
  local function turn_back(out)
    support.remove(path(out) .. "/step-12")
    support.write(path(out) .. "/LATEST", "step-6\n")
  end

  several("goes on with another number of ranks as if nothing had been", function()
    good(arguments "undisturbed")
    local code, _, err = start(4, arguments "moved")
    assert.equal(0, code, err)
    for _, n in ipairs { 3, 2 } do
      turn_back "moved"
      code, _, err = start(n, ("train --resume %s --threads 1"):format(path "moved"))
      assert.equal(0, code, err)
      assert.same(bytes "undisturbed", bytes "moved")
    end
    turn_back "moved"
    good(("train --resume %s --threads 1"):format(path "moved"))
    assert.same(bytes "undisturbed", bytes "moved")
    code, _, err = start(2, ("train --resume %s --threads 1"):format(path "moved"))
    assert.equal(0, code, err)
    assert.is_truthy(err:find "has finished its 12 steps", err)
    code, _, err = start(5, ("train --resume %s --steps 20 --threads 1"):format(path "moved"))
    assert.equal(2, code)
    assert.is_truthy(err:find "the run has 4 lanes, so it goes on with at most 4 ranks, not 5", err)
  end)

  several("ends with one sentence when a rank fails", function()
    support.write(path "fails.lua", [[
      local pf = require "performer"
      local _, rank = pf.ranks.launched()
      return function(o)
        return pf.nn.chain { pf.nn.embedding { vocab = o.vocab, dim = 8 },
          { forward = function(_, x, pass)
              if rank == 1 and pass.step == 3 then error "a rank's own trouble" end
              return x
            end },
          pf.nn.linear { from = 8, to = o.vocab } }
      end]])
    local code, _, err = start(2, ("train %s --model %s --out %s --length 32 --batch 4 --steps 12 "
      .. "--eval-every 2 --lanes 2 --threads 1"):format(path "t.txt", path "fails.lua",
      path "failed"))
    assert.equal(1, code)
    local _, times = err:gsub("a rank's own trouble", "")
    assert.equal(1, times, err)
    assert.is_truthy(err:find "performer: rank 1 of 2 on ", err)
    assert.is_truthy(err:find "the last good checkpoint stands; go on with", err)
  end)

  several("is judged by all ranks as by one", function()
    good(arguments "judged")
    local command = ("eval %s %s --json --batch 3"):format(path "judged", path "t.txt")
    local alone = commands.records(good(command))[1]
    local code, out, err = start(3, command)
    assert.equal(0, code, err)
    local together = commands.records(out)
    assert.equal(1, #together)
    for _, name in ipairs { "loss", "accuracy", "tokens", "rows" } do
      assert.equal(alone[name], together[1][name])
    end
    local refused, _, why = start(2, command .. " --per-sequence")
    assert.equal(2, refused)
    assert.is_truthy(why:find "start it without mpirun", why)
  end)

  several("opens a run's mark, and lends its average, on all ranks", function()
    local code, _, err = start(2, arguments("averaged", "--steps 6 --ema 0.9 --valid "
      .. path "t.txt"))
    assert.equal(0, code, err)
    local _, times = err:gsub("the same text is trained on and held out", "")
    assert.equal(1, times, err) -- what all know one says
    local command = ("eval %s %s --json"):format(path "averaged", path "t.txt")
    local alone = commands.records(good(command))[1]
    local judged, out, why = start(3, command)
    assert.equal(0, judged, why)
    assert.equal(alone.loss, commands.records(out)[1].loss)
    assert.not_equal(commands.records(good(command .. " --average off"))[1].loss, alone.loss)
    command = ("train --resume %s/BEST --steps 8 --threads 1 --out "):format(path "averaged")
    good(command .. path "best1")
    code, _, err = start(2, command .. path "best2")
    assert.equal(0, code, err)
    assert.same(bytes "best1", bytes "best2")
  end)

  several("hears of a rank that ends without a word", function()
    for what, message in pairs {
      ["require 'performer'.exit(0)"] = "rank 1 of 2 on .*: left, with exit code 0; no checkpoint",
      ["error(nil)"] = "rank 1 of 2 on .*: the script threw a nil that says nothing; no checkpoint",
    } do
      support.write(path "silent.lua", ([[
        local pf = require "performer"
        local _, rank = pf.ranks.launched()
        return function(o)
          return pf.nn.chain { pf.nn.embedding { vocab = o.vocab, dim = 8 },
            { forward = function(_, x)
                if rank == 1 then %s end
                return x
              end },
            pf.nn.linear { from = 8, to = o.vocab } }
        end]]):format(what))
      local code, _, err = start(2, ("train %s --model %s --out %s --length 32 --batch 4 --steps 2 "
        .. "--threads 1"):format(path "t.txt", path "silent.lua", path "silent"))
      assert.equal(1, code, err)
      assert.is_truthy(err:find(message), err)
    end
  end)

  several("says once what is wrong with its words, and nothing of ranks that are ended", function()
    for _ = 1, 2 do
      local code, _, err = start(4, arguments("worded", "--bogus"))
      assert.equal(2, code, err)
      local _, times = err:gsub("performer: ", "")
      assert.equal(1, times, err)
      assert.is_truthy(err:find("performer: unknown option '--bogus'", 1, true), err)
    end
  end)

  several("says what is wrong with the words of one rank, which rank 0 has not", function()
    local code, _, err = mpirun.each(arguments("worded"), arguments("worded", "--bogus"))
    assert.equal(2, code, err)
    assert.matches("performer: rank 1 of 2 on [^:]+: unknown option '%-%-bogus'", err)
  end)

  several("refuses what several ranks can't share", function()
    for n, case in pairs {
      [2] = { "train - --out " .. path "shared", "rank 0 alone has the standard input" },
      [3] = { arguments("shared", "--steps 2 --lanes 2"),
              "%-%-lanes 2 is for at most 2 ranks, and 3 were started; give %-%-lanes 3" },
      [4] = { arguments("shared", "--steps 2 --batch 6 --lanes 5"), -- not --lanes 3
              "%-%-batch 6 is not divided by its 5 lanes; try %-%-lanes 6, or %-%-batch 10" },
    } do
      local code, _, err = start(n, case[1])
      assert.equal(2, code, err)
      assert.is_truthy(err:find(case[2]), err)
    end
    assert.is_false(commands.exists(path "shared/log.jsonl"))
  end)

  several("leaves to one rank what one does", function()
    local code, out, err = start(3, ("shard %s --out %s"):format(path "t.txt", path "shards"))
    assert.same({ 0, "" }, { code, out }, err)
    assert.is_truthy(err:find "shard: 3 ranks were started; rank 0 does it all", err)
    assert.is_true(commands.exists(path "shards/shards.json"))
  end)

  several("tells whose data are others", function()
    good(arguments("judge", "--steps 1"))
    local text = support.read(path "t.txt")
    local same, byte = "as many tokens as rank 0, and not the same ones", ("%c"):format(
      text:byte(50) ~ 1)
    support.write(path "data1", text)
    for other, said in pairs {
      [text:sub(401)] = "%d+ tokens in %d+ documents.*; rank 0 has %d+",
      [text:sub(1, 49) .. byte .. text:sub(51)] = same,
    } do
      support.write(path "data2", other)
      for _, command in ipairs { "train %s --out " .. path "differs" .. " --steps 4 --threads 1",
                                 "eval " .. path "judge" .. " %s" } do
        local code, _, err = mpirun.each(command:format(path "data1"), command:format(path "data2"))
        assert.equal(1, code, err)
        assert.is_truthy(err:find("rank 1 on .* sees other data: " .. said), err)
      end
    end
    assert.is_false(commands.exists(path "differs/log.jsonl"))
  end)

  several("tells who was started with other options", function()
    local function refused(said, first, ...)
      local code, _, err = mpirun.each(first, ...)
      assert.equal(2, code, err)
      assert.matches("train: rank %d on %S+ " .. said, err)
      local _, times = err:gsub("performer: ", "")
      assert.equal(1, times, err)
    end
    local function train(more) return arguments("options", "--steps 2 " .. more) end
    refused("was given %-%-lr 0.1, and rank 0 %-%-lr 0.01: all ranks run the same command",
            train "--lr 1e-2", train "--lr 0.010", train "--lr 0.1")
    refused("was given no %-%-redraw, and rank 0 %-%-redraw 2", train "--redraw 2", train "")
    refused("was given %-%-reversible off, and rank 0 no", train "", train "--reversible off")
    refused("was given %-%-group norm:decay=0, and", train "--group ngrams:lr_scale=2",
            train "--group norm:decay=0")
    local text = "return function(o) return require 'performer'.nn.embedding { vocab = o.vocab, "
      .. "dim = %s } end"
    support.write(path "one.lua", text:format "o.vocab")
    good(("train %s --out %s --steps 1 --model %s"):format(path "t.txt", path "whole_script",
                                                           path "one.lua"))
    os.execute(("mkdir -p %s %s"):format(path "host1", path "host2"))
    support.write(path "host1/m.lua", text:format "o.vocab")
    support.write(path "host2/m.lua", text:format " o.vocab")
    local own = "sh -c 'cd %s && exec %s/bin/performer " .. train "--model m.lua" .. "'"
    local code, _, err = support.shell(mpirun.apart(own:format(path "host1", support.build),
                                                    own:format(path "host2", support.build)))
    assert.equal(2, code, err)
    assert.matches("rank 1 on %S+ has another file m.lua %(%-%-model%) than rank 0", err)
    assert.is_false(commands.exists(path "options/log.jsonl"))
    local fine, _, why = mpirun.each(train "--json", train "--threads 2 --memory 1G")
    assert.equal(0, fine, why)
  end)
end)
