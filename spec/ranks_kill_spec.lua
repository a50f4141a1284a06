-- ranks_kill_spec.lua - what becomes of a run when something happens to one rank of three: it is
-- killed (SIGKILL) at a call that is counted, a message of a step or of a save, an fsync or a
-- rename of the rank that writes, a forward of a layer in Lua; it is stopped (SIGSTOP); its disk is
-- full.
-- All ranks are gone then, what stands loads, and --continue, on another number of ranks, ends in
-- the bits of a run that nobody disturbed. PF_LONG strikes at every fsync and rename, and at more
-- of the messages and forwards.
local commands = require "spec.support.commands"
local ranks = require "spec.support.ranks"
local support = require "spec.support"

local good, path = commands.good, commands.path

local LONG = os.getenv "PF_LONG" ~= nil

-- A model that kills its rank within a forward: KILL_CALL is "forward".
local MODEL = [[
local pf = require "performer"
local _, rank = pf.ranks.launched()
local calls, at = 0, tonumber(os.getenv "KILL_AT" or 0)
local counts = os.getenv "KILL_FORWARDS"
local meant = os.getenv "KILL_CALL" == "forward" and tonumber(os.getenv "KILL_RANK" or rank) == rank
return function(o)
  local layer = { w = pf.full({ 16 }, 0.5) }
  function layer.forward(self, x)
    calls = calls + 1
    if meant and calls == at then os.execute "kill -9 $PPID" end
    if meant and counts then
      local file <close> = assert(io.open(counts .. "." .. rank, "w"))
      file:write(calls)
    end
    return x * self.w
  end
  return pf.nn.chain { pf.nn.embedding { vocab = o.vocab, dim = 16 }, layer,
    pf.nn.block { dim = 16, heads = 2, causal = true },
    pf.nn.linear { from = 16, to = o.vocab } }
end]]

describe("a run that can be gone on with is left by a rank", function()
  local preload, whole

  setup(function()
    commands.start()
    preload = path "kill_at.so"
    support.library(preload, "spec/c/kill_at.c", "-ldl")
    support.write(path "own.lua", MODEL)
  end)
  teardown(commands.stop)

  local PLAIN = "--dim 16 --layers 1 --heads 2 --features 16 --dropout 0.1"

  --- more: the model.
  local function arguments(run, more)
    return ("train %s --out %s --length 32 --batch 6 --lanes 6 --steps 6 --eval-every 2 "
      .. "--threads 1 --continue --timeout 20 %s"):format(path "t.txt", path(run), more or PLAIN)
  end

  local function own() return "--model " .. path "own.lua" end

  --- How many calls each rank makes, from 0.
  local function counts(call, more)
    local code, _, err = ranks.start(3, arguments("counted" .. call, more),
      ("KILL_CALL=%s %s=%s"):format(call, call == "forward" and "KILL_FORWARDS" or "KILL_COUNTS",
      path "counts"), preload)
    assert.equal(0, code, err)
    local n = {}
    for rank = 0, 2 do n[rank] = tonumber(support.read(path("counts." .. rank))) end
    return n
  end

  --- Fails where a process of a run is still there some seconds after mpirun has ended.
  local function assert_gone(run, where)
    local look = ("i=0; while pgrep -f '[o]ut %s ' >/dev/null; do sleep 0.1; i=$((i+1)); "
      .. "test $i -lt 100 || exit 1; done"):format(path(run))
    assert.equal(0, (support.shell(look)), where)
  end

  local strikes = 0

  --- Struck, and gone on with; whether anything stood by then, and how mpirun ended. how: kill,
  -- stop or full; more: the model.
  local function strike(call, rank, at, how, more)
    strikes = strikes + 1
    local run, where = "run" .. strikes, ("rank %d, %s %d"):format(rank, call, at)
    local words = arguments(run, more)
    if how == "stop" then words = words:gsub("%-%-timeout 20", "--timeout 4") end
    local code, _, err = ranks.start(3, words, ("KILL_CALL=%s KILL_RANK=%d KILL_AT=%d KILL_HOW=%s")
      :format(call, rank, at, how or "kill"), preload)
    assert.is_true(code ~= 0 and code ~= 124, where .. "\n" .. err)
    assert_gone(run, where)
    local stands = commands.exists(path(run) .. "/LATEST")
    if stands then good(("inspect %s"):format(path(run))) end
    local n = strikes % 3 + 1
    if n == 1 then
      good(arguments(run, more))
    else
      local again, _, why = ranks.start(n, arguments(run, more))
      assert.equal(0, again, where .. "\n" .. why)
    end
    assert.same(whole, ranks.bytes(path(run)), where)
    support.remove(path(run))
    return stands, code, err
  end

  --- At `points` of 1 .. n, or with PF_LONG at so many, or all.
  local function places(n, points, most)
    local list, some = {}, LONG and math.min(n, most) or points
    for i = 1, some do list[i] = math.max(1, (2 * i - 1) * n // (2 * some)) end
    return list
  end

  --- The run that nobody disturbs.
  local function undisturbed(more)
    good(arguments("whole", more))
    whole = ranks.bytes(path "whole")
    support.remove(path "whole")
  end

  local function at_calls()
    undisturbed()
    local before, stood, n = strikes, 0, counts "MPI_Isend"
    for rank = 0, 2 do
      for _, at in ipairs(places(n[rank], 2, 40)) do
        stood = stood + (strike("MPI_Isend", rank, at) and 1 or 0)
      end
    end
    for _, call in ipairs { "fsync", "rename" } do
      for _, at in ipairs(places(counts(call)[0], 3, 1000)) do
        stood = stood + (strike(call, 0, at) and 1 or 0)
      end
    end
    assert.is_true(stood > 0 and stood < strikes - before)
  end

  local function in_forward()
    undisturbed(own())
    local before, stood, n = strikes, 0, counts("forward", own())
    for rank = 0, 2 do
      assert.is_true(n[rank] >= 12) -- two lanes of six steps
      local list = places(n[rank], 1, 12)
      table.insert(list, 1, 3) -- in step 2, before anything is saved
      for _, at in ipairs(list) do
        stood = stood + (strike("forward", rank, at, "kill", own()) and 1 or 0)
      end
    end
    assert.is_true(stood > 0 and stood < strikes - before)
  end

  local function stopped()
    undisturbed()
    local n = counts "MPI_Isend"
    for rank = 0, 2 do
      for _, at in ipairs(places(n[rank], 1, 4)) do
        local _, code, err = strike("MPI_Isend", rank, at, "stop")
        assert.equal(75, code, err)
        assert.matches("no answer from rank %d of 3 on .* for [%d.]+ s", err)
      end
    end
  end

  local function full()
    undisturbed()
    local n = counts "fsync"
    for _, at in ipairs(places(n[0], 2, 6)) do
      local _, code, err = strike("fsync", 0, at, "full")
      assert.equal(1, code, err)
      local _, times = err:gsub("No space left on device", "")
      assert.equal(1, times, err)
    end
  end

  local function leaves_a_run(name, test)
    if ranks.has_mpi and not support.sanitized then
      it(name, test)
    else
      pending(name .. " (no mpirun or plugin, or a sanitizer's build)", test)
    end
  end
  leaves_a_run("killed at a message, an fsync or a rename", at_calls)
  leaves_a_run("killed within a forward, of a layer in Lua", in_forward)
  leaves_a_run("stopped: it is waited for no longer than --timeout", stopped)
  leaves_a_run("with a full disk: it is told once", full)
end)
