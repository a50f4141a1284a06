-- ranks_spec.lua - pf.ranks with one rank; and `train` over several: the same bytes on any number
-- of them, also after going on with another number, and one sentence when one of them fails. Those
-- of several need mpirun, and the plugin that is built where an MPI is.
local commands = require "spec.support.commands"
local pf = require "performer"
local mpirun = require "spec.support.ranks"
local support = require "spec.support"

local good, path, performer = commands.good, commands.path, commands.performer
local assert_sentence = commands.assert_sentence

local ROOT, start = mpirun.ROOT, mpirun.start

local function several(name, f)
  if mpirun.has_mpi then it(name, f) else pending(name .. " (no mpirun, or no plugin)", f) end
end

describe("one rank", function()
  it("is all there is, and costs nothing", function()
    local ranks = assert(pf.ranks.open())
    assert.same({ 0, 1, true }, { ranks.rank, ranks.size, ranks:first() })
    local lanes = {}
    for lane in ranks:lanes(3) do lanes[#lanes + 1] = lane end
    assert.same({ 1, 2, 3 }, lanes)
    assert.same({ 2, 0.5, 7 }, { ranks:sum(2, 0.5, 7) })
    assert.same({ true, false }, { ranks:any(true, nil) })
    assert.same({ { a = 1 } }, ranks:collect { a = 1 })
    assert.equal("bytes", ranks:share_bytes "bytes")
    local t = pf.tensor { 1, 2 }
    assert.equal(t, ranks:share(t))
    assert.same({ "k" }, { ranks:share "k" })
    assert.same({ 0, 3.5 }, { ranks:most(3.5) })
    assert.is_false(ranks:lost())
    assert.equal(0, ranks:waited())
    ranks:wait()
    ranks:close()
  end)

  it("tells what is wrong with a call", function()
    local ranks = assert(pf.ranks.open())
    assert.error_matches(function() ranks:lanes(0) end, "0 lanes for 1 rank: there must be")
    assert.error_matches(function() ranks:sum("x") end, "ranks:sum: numbers are needed, got string")
    assert.error_matches(function() ranks:share(1, 1) end, "there is no rank 1 among 1")
    assert.error_matches(function() pf.ranks.open { timeout = "1" } end, "timeout must be a number")
    assert.error_matches(function() pf.ranks.open { time = 1 } end, "unknown option 'time'")
  end)

  it("folds lanes, each of which has its part of the sum", function()
    local model = pf.nn.linear { from = 2, to = 1 }
    local optimizer = pf.optim.sgd(model, { lr = 1 })
    assert.error_matches(function() optimizer:fold() end, "no lanes to fold")
    optimizer:set_lanes(2)
    local function lane(x)
      local tape <close> = pf.tape()
      tape:backward(model(pf.tensor { x }):sum())
      optimizer:fold()
    end
    local before = model:tensors().weight:totable()
    lane { 1, 0 }
    assert.error_matches(function() optimizer:step() end, "lane 1 of 0 to 1 is not folded yet")
    lane { 1, 0 }
    lane { 0, 3 }
    optimizer:step()
    local after = model:tensors().weight:totable()
    assert.near(1, math.abs(before[1][1] - after[1][1]), 1e-6)
    assert.near(3, math.abs(before[1][2] - after[1][2]), 1e-6)
    assert.error_matches(function() optimizer:set_lanes(0) end, "0 lanes; from 1 to 65535")
  end)
end)

describe("plain data as bytes", function()
  local plain = require "performer.plain"

  it("come back as they were", function()
    local same = { 1, 1.0, -0.5, math.mininteger, 1 / 0, true, false, "", "a\0\xff", pf.json.null,
                   { 1, 2, { x = { false }, [3.5] = "y" } }, {} }
    for _, value in ipairs(same) do
      local back, at = plain.unpack(plain.pack(value) .. "more")
      assert.same(value, back)
      assert.equal(math.type(value), math.type(back))
      assert.equal(#plain.pack(value) + 1, at)
    end
    assert.is_nil((plain.unpack(plain.pack(nil))))
    local nan = plain.unpack(plain.pack(0 / 0))
    assert.is_true(nan ~= nan)
  end)

  it("are refused where they are not plain", function()
    local round = {}
    round.round = round
    assert.error_matches(function() plain.pack(round) end, "or one that is in itself")
    assert.error_matches(function() plain.pack { print } end, "a function is no plain data")
    assert.error_matches(function() plain.pack(pf.zeros(2)) end, "a tensor is no plain data")
  end)
end)

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
    assert.truthy(err:find("--row-ranks 3 does not divide the 4 ranks", 1, true), err)
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
    assert.same({ 2, "" }, { code, err }) -- rank 0 has said it
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

  several("share files that only one of them has", function()
    support.write(path "large", ("a\0\xff3"):rep(5 << 20)) -- 20 MiB: more than a piece
    support.write(path "empty", "")
    support.write(path "files.lua", ([[
      local pf = require "performer"
      local ranks <close> = assert(pf.ranks.open { timeout = 20 })
      for _, name in ipairs { "large", "empty" } do
        ranks:share_file(ranks.rank == 1 and "%s/" .. name or nil, "memory:" .. name, 1)
        if ranks.rank ~= 1 then
          local text = assert(pf.file.read("memory:" .. name))
          assert(text == (name == "large" and ("a\0\xff3"):rep(5 << 20) or ""), "other bytes")
        end
      end
      local _, message = pcall(ranks.share_file, ranks, "%s/none", "memory:none")
      assert(message:match "rank 0 of 3 on .*none", message)
      _, message = pcall(ranks.share_file, ranks, "%s/large", ranks.rank ~= 2 and "memory:x" or nil)
      assert(message:match "rank 2 of 3 on .*the path is missing", message)
      ranks:share_file("%s/empty", "memory:y") -- and goes on
      if ranks:first() then print "done" end]]):gsub("%%s", ((path "x"):gsub("/x$", ""))))
    local code, out, err = start(3, path "files.lua")
    assert.same({ 0, "done\n" }, { code, out }, err)
  end)

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

  several("adds and shares what each rank has in a form of its own", function()
    support.write(path "forms.lua", ([[
      local pf = require "performer"
      local ranks <close> = assert(pf.ranks.open { timeout = 10 })
      local r = ranks.rank
      local function same(a, b) if a ~= b or math.type(a) ~= math.type(b) then error(a, 2) end end
      same(ranks:sum(r == 1 and 0.5 or 2), 4.5) -- whole on two of three
      same(ranks:sum(r + 1, 0), 6)
      local sums = { ranks:sum(r, 1, 2, 3, 4, r + 0.25) }
      for i, sum in ipairs { 3, 3, 6, 9, 12, 3.75 } do same(sums[i], sum) end
      same(ranks:share(r == 0 and "a\0text" or nil), "a\0text")
      same(ranks:share(r == 2 and 7 or "no number", 2), 7)
      same(ranks:share(r == 1 and { x = "y" } or 0 / 0, 1).x, "y")
      same(ranks:share(r == 1 and { x = "caf\xe9\0" } or nil, 1).x, "caf\xe9\0") -- no UTF-8
      for i, value in ipairs(ranks:collect { "\xff" .. r, [r + 2] = 1 / 0 }) do
        same(value[1], "\xff" .. i - 1)
        same(value[i + 1], 1 / 0)
      end
      local _, message = pcall(ranks.sum, ranks, table.unpack({ 1, 2, 0.5 }, 1, r == 2 and 2 or 3))
      same(message:match "rank 2 has 2 numbers, and rank 0 3", "rank 2 has 2 numbers, and rank 0 3")
      local model = pf.nn.linear { from = 2, to = 2 }
      if ranks:first() then assert(pf.checkpoint.save_model("%s", { model = model })) end
      ranks:wait()
      model = assert(pf.checkpoint.model("%s", { mapped = true }))
      same(select(2, pcall(ranks.share, ranks, model)):match "only read", "only read")
      local x, tape = pf.tensor({ r, 1 }):requires_grad(), pf.tape()
      local y = (x * x):sum()
      pcall(ranks.share, ranks, x)
      same(pcall(tape.backward, tape, y), false)
      if ranks:first() then print "done" end]]):format(path "shipped", path "shipped"))
    local code, out, err = start(3, path "forms.lua")
    assert.same({ 0, "done\n" }, { code, out }, err)
  end)

  several("hear of a failure in a script of one's own what it was", function()
    support.write(path "own.lua", [[
      local ranks <close> = assert(require "performer".ranks.open { timeout = 10 })
      if ranks.rank == 1 then error "a rank's own trouble" end
      local fine, message = pcall(ranks.wait, ranks)
      if ranks.rank == 2 then io.stdout:write(tostring(fine), "\t", message):flush() end]])
    local _, out, err = start(3, path "own.lua")
    assert.matches("false\t.*rank 1 of 3 on .*a rank's own trouble", out, nil, nil, err)
  end)

  several("find the plugin by the program's bare name, and none in the folder they start in",
          function()
    support.write(path "trap.c", [[
      #include <stdio.h>
      #include <stdlib.h>
      __attribute__((constructor)) static void caught(void) { puts("caught"); exit(9); }]])
    for _, name in ipairs { "libperformer_mpi.so", "libperformer_lua.so" } do
      support.library(path(name), path "trap.c")
    end
    support.write(path "bare.lua", [[
      local ranks <close> = assert(require "performer".ranks.open { timeout = 20 })
      if ranks:first() then print(ranks.size) end]])
    local code, out, err = support.shell(("cd %s && PATH=%s/bin:$PATH %s timeout -k 5 120 mpirun "
      .. "--oversubscribe --bind-to none -n 2 performer bare.lua"):format(path ".", support.build,
      ROOT))
    assert.same({ 0, "2\n" }, { code, out }, err)
  end)

  several("sends while backward runs, and a step that fails in it is none", function()
    support.write(path "overlap.lua", [[
      local pf = require "performer"
      local ranks <close> = assert(pf.ranks.open { timeout = 20 })
      pf.seed(1)
      local layers = {} -- each leaves by itself
      for i = 1, 4 do layers[i] = pf.nn.linear { from = 1024, to = 1024 } end
      local model = pf.nn.chain(layers)
      local optimizer = pf.optim.sgd(model, { lr = 0.1 })
      optimizer:set_lanes(3)
      local function learn(step, lane, last)
        local tape <close> = pf.tape()
        local y = model(pf.full({ 1, 1024 }, (step * 3 + lane) % 7 / 7))
        local loss, runs = (y * y):mean(), 0
        if step == 2 and lane == 2 then
          loss = loss + pf.recompute(function(w)
            runs = runs + 1
            return runs == 1 and w * w or error "halfway"
          end, model:parameters()[1]):mean()
        end
        if last then optimizer:overlap() end
        tape:backward(loss, 1 / 3)
        optimizer:fold()
      end
      for step = 1, 4 do
        local fine, message = pcall(function()
          for lane, last in ranks:lanes(3) do learn(step, lane, last) end
        end)
        assert(fine or step == 2 and message:find "halfway", message)
        fine, message = pcall(optimizer.step, optimizer)
        assert(fine == (step ~= 2), message)
      end
      local sum = 0
      for _, w in ipairs(model:parameters()) do sum = sum + (w * w):sum():item() end
      if ranks:first() then print(("%.17g"):format(sum)) end]])
    local _, alone = start(1, path "overlap.lua")
    assert.matches("^%d", alone)
    for n = 2, 3 do
      local code, out, err = start(n, path "overlap.lua")
      assert.same({ 0, alone }, { code, out }, err)
    end
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

  several("refuses what several ranks can't share", function()
    for n, case in pairs {
      [2] = { "train - --out " .. path "shared", "rank 0 alone has the standard input" },
      [3] = { arguments("shared", "--steps 2 --lanes 2"),
              "%-%-lanes 2 is for at most 2 ranks, and 3 were started; give %-%-lanes 3" },
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
    support.write(path "own.sh", ("#!/bin/sh\nexec %s/bin/performer train %s$OMPI_COMM_WORLD_RANK "
      .. "--out %s --length 32 --batch 4 --steps 4 --threads 1\n"):format(support.build,
      path "data", path "differs"))
    local text = support.read(path "t.txt")
    local same, byte = "as many tokens as rank 0, and not the same ones", ("%c"):format(
      text:byte(50) ~ 1)
    for other, said in pairs {
      [text:sub(401)] = "%d+ training tokens in %d+ documents, and %d+ held out; rank 0 has",
      [text:sub(1, 49) .. byte .. text:sub(51)] = same,
    } do
      support.write(path "data0", text)
      support.write(path "data1", other)
      local code, _, err = support.shell(ROOT .. "mpirun --oversubscribe --bind-to none -n 2 sh "
        .. path "own.sh")
      assert.equal(1, code)
      assert.is_truthy(err:find("rank 1 on .* sees other data: " .. said), err)
    end
    assert.is_false(commands.exists(path "differs/log.jsonl"))
  end)
end)
