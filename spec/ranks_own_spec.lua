-- ranks_own_spec.lua - pf.ranks in scripts of one's own: with one rank, and started by mpirun where
-- there is one, and the plugin that is built with an MPI.
local commands = require "spec.support.commands"
local pf = require "performer"
local mpirun = require "spec.support.ranks"
local support = require "spec.support"

local path = commands.path
local ROOT, start = mpirun.ROOT, mpirun.start
local several = mpirun.several(it, pending)

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
    assert.error_matches(function() optimizer:step() end,
      "lane 2 of this rank's 1 to 2 is not folded yet")
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

describe("a script of one's own on several ranks", function()
  setup(commands.start)
  teardown(commands.stop)

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

  several("say once what failed in a scope that tells it", function()
    support.write(path "fails.lua", [[
      local ranks <close> = assert(require "performer".ranks.open { timeout = 10 })
      if ranks.rank == 1 then error "a rank's own trouble" end
      ranks:sum(1)]])
    local code, _, err = start(3, path "fails.lua")
    assert.equal(1, code, err)
    local _, times = err:gsub("performer: ", "")
    assert.equal(1, times, err)
    assert.matches("performer: .*fails.lua:3: rank 1 of 3 on .*fails.lua:2: a rank's own trouble",
                   err)
    -- What was caught is nobody's, and what comes later that rank's own.
    support.write(path "common.lua", [[
      local pf = require "performer"
      pcall(function()
        local ranks <close> = assert(pf.ranks.open { timeout = 10 })
        if ranks.rank == 2 then error "caught" end
        ranks:wait()
      end)
      if select(2, pf.ranks.launched()) == 2 then error("rank 2 fails by itself", 0) end
      os.execute "sleep 2"]]) -- mpirun ends the others when the first ends
    code, _, err = start(3, path "common.lua")
    assert.equal(1, code, err)
    assert.matches("performer: rank 2 fails by itself", err)
    assert.is_nil(err:find "caught")
  end)

  several("end with 75 where a rank does not answer", function()
    support.write(path "sleeps.lua", [[
      local ranks <close> = assert(require "performer".ranks.open { timeout = 2 })
      if ranks.rank == 1 then os.execute "sleep 20" end
      ranks:wait()]])
    local code, _, err = start(2, path "sleeps.lua")
    assert.equal(75, code, err)
    assert.matches("rank 0 of 2 on %S+ has waited for rank 1 of 2 on %S+ for .* in vote %d", err)
    assert.matches("no answer from rank 1 of 2 on %S+ for 2 s in vote %d+\n", err)
  end)

  several("hear what is wrong with what one of them gives a verb, and go on", function()
    support.write(path "given.lua", [[
      local pf = require "performer"
      local ranks <close> = assert(pf.ranks.open { timeout = 5 })
      local round = {}
      round.round = round
      local function given(bad, well) return ranks.rank == 1 and bad or well end
      for i, case in ipairs {
        { "share", "a function is no plain data", given(print, 1), 1 },
        { "share", "or one that is in itself", given(round, 1), 1 },
        { "share", "there is no rank 7 among 2", 1, given(7, 0) },
        { "share_bytes", "texts are needed, got boolean", given(true, ""), 1 },
        { "share_bytes", "there is no rank x among 2", "", given("x", 0) },
        { "share_file", "there is no rank %-1 among 2", "memory:a", "memory:b", given(-1, 1) },
        { "collect", "a tensor is no plain data", given(pf.zeros(2), 1) },
        { "collect_bytes", "texts are needed, got table", given({}, "") },
        { "sum", "numbers are needed, got string", 1, given("x", 1) },
        { "most", "numbers are needed, got string", given("x", 1) },
        { "row_ranks", "must be a whole one, got 0.5", given(0.5, 1) } } do
        local name, want = case[1], case[2]
        local _, message = pcall(ranks[name], ranks, table.unpack(case, 3))
        local told = tostring(message)
        assert(told:find("rank 1 of 2 on ", 1, true) and told:find(want), told)
        assert(ranks:sum(i) == 2 * i)
      end
      if ranks:first() then print "done" end]])
    local code, out, err = start(2, path "given.lua")
    assert.same({ 0, "done\n" }, { code, out }, err)
  end)

  several("end with 75 where one never begins MPI", function()
    support.write(path "opens.lua", "assert(require 'performer'.ranks.open { timeout = 2 })")
    local began = os.time()
    local code, _, err = support.shell(mpirun.apart(support.build .. "/bin/performer "
      .. path "opens.lua", "sleep 60"))
    assert.is_true(os.time() - began < 50)
    assert.equal(75, code, err)
    assert.matches("performer: ranks: rank 0 of 2 waits for the others to begin MPI, and not all "
      .. "have come in 10 s: one may have ended", err)
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

  several("are all at a step again that one of them takes wrongly, or not at all", function()
    support.write(path "steps.lua", [[
      local pf = require "performer"
      local ranks <close> = assert(pf.ranks.open { timeout = 5 })
      local odd = ranks.rank == 1
      pf.seed(1)
      local layers = {}
      for i = 1, 4 do layers[i] = pf.nn.linear { from = 512, to = 512 } end
      local model = pf.nn.chain(layers)
      local optimizer = pf.optim.adamw(model, { lr = 0.01 })
      optimizer:set_lanes(6)
      local function learn(step, lane, last)
        local tape <close> = pf.tape()
        local y = model(pf.full({ 1, 512 }, (step * 3 + lane) % 7 / 7))
        if last then optimizer:overlap() end
        tape:backward((y * y):mean(), 1 / 6)
        optimizer:fold()
      end
      local function lanes(step) for lane, last in ranks:lanes(6) do learn(step, lane, last) end end
      local function well(step) lanes(step) optimizer:step() end
      local function stepping(options) return function() lanes(1) optimizer:step(options) end end
      -- What one rank does in the step's place; the others do it right.
      local cases = {
        { "lr must be at least 0", stepping { lr = -1 } },
        { "lr must be a number", stepping { lr = "x" } },
        { "unknown option 'rate'", stepping { rate = 1 } },
        { "an optimizer is needed", function() lanes(1) optimizer.step(model) end, true },
        { "is not folded yet", function()
          for lane, last in ranks:lanes(6) do learn(1, lane, last) break end
          optimizer:step()
        end },
        { "is not folded yet", function() optimizer:step() end },
        { "is not folded yet", function()
          pcall(function() for lane in ranks:lanes(6) do learn(1, lane) error "mid" end end)
          optimizer:step()
        end },
        { "of no lane", function()
          lanes(1)
          local tape <close> = pf.tape()
          tape:backward(model(pf.full({ 1, 512 }, 1)):mean())
          optimizer:step()
        end },
        { "lr must be at least 0", function() lanes(1)
          assert(not pcall(optimizer.fold, 1))
          assert(not pcall(optimizer.overlap, {}))
          assert(not pcall(optimizer.set_lanes, optimizer, "x"))
          assert(not pcall(optimizer.set_lanes, optimizer, 1 << 20))
          optimizer:step { lr = 0 / 0 } end },
      }
      well(1)
      for i, case in ipairs(cases) do
        if ranks.size > 1 then
          local fine, message = pcall(odd and case[2] or well, 1)
          assert(not fine and tostring(message):find(case[1], 1, true), message)
          if case[3] and odd then optimizer:set_lanes(6) end
        end
        well(i + 1)
      end
      local sum = 0
      for _, w in ipairs(model:parameters()) do sum = sum + (w * w):sum():item() end
      if ranks:first() then print(("%.17g"):format(sum)) end]])
    local _, alone = start(1, path "steps.lua")
    assert.matches("^%d", alone)
    for n = 2, 3 do
      local code, out, err = start(n, path "steps.lua")
      assert.same({ 0, alone }, { code, out }, err)
    end
  end)

  several("refuse on all what has another size, or a file that one can't read or write", function()
    local folder = path "small":gsub("/small$", "")
    support.write(path "small", "small")
    support.write(path "sizes.lua", [[
      local pf = require "performer"
      local ranks <close> = assert(pf.ranks.open { timeout = 5 })
      local here, odd = arg[1], ranks.rank == 1
      local function both(want, f)
        local fine, message = pcall(f)
        assert(not fine and tostring(message):find(want), message)
        assert(ranks:sum(1) == ranks.size)
      end
      both("share: rank 1 of %d on .* has 32 bytes, and another has fewer", function()
        ranks:share(pf.zeros(odd and 8 or 4))
      end)
      both("share: rank 0 of %d on .* has 16 bytes, and another has fewer", function()
        ranks:share(pf.zeros(odd and 2 or 4), 1)
      end)
      local t = pf.full({ 4 }, ranks.rank)
      assert(ranks:share(t, 1):sum():item() == 4)
      -- Files: what one rank can't read or write is raised on all.
      for _, case in ipairs {
        { "rank 0 of %d on .*none", here .. "/none", "memory:a" },
        { "rank 0 of %d on ", here, "memory:a" },
        { "rank 1 of %d on .*nowhere", here .. "/small",
          odd and here .. "/nowhere/x" or "memory:a" },
        { "rank 1 of %d on ", here .. "/small", odd and here or "memory:a" },
      } do
        both(case[1], function() ranks:share_file(case[2], case[3]) end)
      end
      ranks:share_file(here .. "/small", "memory:b")
      assert(ranks:first() or pf.file.read "memory:b" == "small")
      if ranks:first() then print "done" end]])
    for n = 2, 3 do
      local code, out, err = start(n, path "sizes.lua" .. " " .. folder)
      assert.same({ 0, "done\n" }, { code, out }, err)
    end
  end)
end)
