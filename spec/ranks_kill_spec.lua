-- ranks_kill_spec.lua - a rank of three is killed (SIGKILL) at a call that is counted: at a message
-- of a step or of a save, at an fsync or a rename of the rank that writes. All ranks are gone then,
-- what stands loads, and --continue, on another number of ranks, ends in the bits of a run that
-- nobody disturbed. PF_LONG strikes at every fsync and rename, and at more of the messages.
local commands = require "spec.support.commands"
local ranks = require "spec.support.ranks"
local support = require "spec.support"

local good, path = commands.good, commands.path

local LONG = os.getenv "PF_LONG" ~= nil
local sanitized = support.build:find "san" -- whose library is to be the first

describe("a rank that is killed", function()
  local preload, whole

  setup(commands.start)
  teardown(commands.stop)

  local function arguments(run)
    return ("train %s --out %s --length 32 --dim 16 --layers 1 --heads 2 --features 16 --batch 6 "
      .. "--lanes 6 --dropout 0.1 --steps 6 --eval-every 2 --threads 1 --continue"):format(
      path "t.txt", path(run))
  end

  --- How many calls each rank makes, from 0.
  local function counts(call)
    local code, _, err = ranks.start(3, arguments("counted" .. call),
      ("KILL_CALL=%s KILL_COUNTS=%s"):format(call, path "counts"), preload)
    assert.equal(0, code, err)
    local n = {}
    for rank = 0, 2 do n[rank] = tonumber(support.read(path("counts." .. rank))) end
    return n
  end

  local strikes = 0

  --- Killed, and gone on with; whether anything stood by then.
  local function strike(call, rank, at)
    strikes = strikes + 1
    local run, where = "run" .. strikes, ("rank %d, %s %d"):format(rank, call, at)
    local code, _, err = ranks.start(3, arguments(run),
      ("KILL_CALL=%s KILL_RANK=%d KILL_AT=%d"):format(call, rank, at), preload)
    assert.is_true(code ~= 0 and code ~= 124, where .. "\n" .. err)
    local stands = commands.exists(path(run) .. "/LATEST")
    if stands then good(("inspect %s"):format(path(run))) end
    local n = strikes % 3 + 1
    if n == 1 then
      good(arguments(run))
    else
      code, _, err = ranks.start(n, arguments(run))
      assert.equal(0, code, where .. "\n" .. err)
    end
    assert.same(whole, ranks.bytes(path(run)), where)
    support.remove(path(run))
    return stands
  end

  --- At `points` of 1 .. n, or with PF_LONG at so many, or all.
  local function places(n, points, most)
    local list, some = {}, LONG and math.min(n, most) or points
    for i = 1, some do list[i] = math.max(1, (2 * i - 1) * n // (2 * some)) end
    return list
  end

  local function test()
    preload = path "kill_at.so"
    local compile = "cc -shared -fPIC -o %s spec/c/kill_at.c -ldl"
    assert.equal(0, (support.shell(compile:format(preload))))
    good(arguments "whole")
    whole = ranks.bytes(path "whole")
    local stood, n = 0, counts "MPI_Isend"
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
    assert.is_true(stood > 0 and stood < strikes)
  end

  if ranks.has_mpi and not sanitized then
    it("leaves what can be gone on with", test)
  else
    pending("leaves what can be gone on with (no mpirun or plugin, or a sanitizer's build)", test)
  end
end)
