-- ranks_model_spec.lua - what `performer bench ranks --simulate` plays: links by worlds that one
-- can work out by hand, schedules against closed formulas, published efficiencies and bytes that
-- were counted on real links, and the command around them.
local commands = require "spec.support.commands"
local events = require "kit.ranks_events"
local model = require "kit.ranks_model"
local support = require "spec.support"

local RANKS = { 2, 3, 4, 5, 8, 64, 512, 4096 }

local function world_of(hosts, link, per_host, by_node)
  return { hosts = hosts, per_host = per_host or 1, by_node = by_node, near = model.near,
           link = model.links[link] or link }
end

--- 25 million parameters, or blocks of a model 512 wide with 8 heads and 256 features.
local function shape_of(ranks, tokens, more)
  local shape = { ranks = ranks, tokens = tokens, rate = 1.2e12, params = 25000000,
                  flops = 1.16 * 6 * 25000000, layers = 12, rows = 1, state = 532480,
                  block_flops = 21.9e6, attention = 0.138 }
  for key, value in pairs(more or {}) do shape[key] = value end
  return shape
end

local function within(want, got, part, what)
  assert.is_true(math.abs(got - want) <= part * want,
                 ("%s: %.6g, not %.6g"):format(what or "", got, want))
end

describe("links of ranks", function()
  local LINK = { alpha = 1, beta = 1 / 8 } -- 8 bytes a second: binary fractions, exact sums

  local function play(world, programs)
    return events.play(world, function(rank)
      local program = programs[rank.id]
      if program then program(rank) end
    end)
  end

  it("take a message for alpha and its bytes, each way for itself", function()
    local function swap(other)
      return function(rank)
        rank:send(other, 16)
        rank:receive(other)
      end
    end
    local played = play(world_of(2, LINK), { [0] = swap(1), [1] = swap(0) })
    assert.same({ 3.0, 2, 32, 16 }, { played.seconds, played.messages, played.bytes,
                                      played.host_bytes })
  end)

  it("are of a host: its ranks wait for each other, to send and to receive", function()
    local function to(other) return function(rank) rank:send(other, 8) end end
    local function from(other) return function(rank) rank:receive(other) end end
    local out = play(world_of(2, LINK, 2), { [0] = to(2), [1] = to(3), [2] = from(0),
                                             [3] = from(1) })
    assert.equal(4.0, out.seconds) -- one behind the other
    assert.equal(16, out.host_bytes)
    local into = play(world_of(4, LINK), { [1] = to(0), [2] = to(0), [3] = to(0),
      [0] = function(rank) for other = 3, 1, -1 do rank:receive(other) end end })
    assert.equal(6.0, into.seconds)
  end)

  it("carry what waits in order, while ranks compute", function()
    local played = play(world_of(2, LINK), {
      [0] = function(rank)
        for _ = 1, 3 do rank:send(1, 8) end
        rank:compute(1)
      end,
      [1] = function(rank)
        rank:compute(3)
        for _ = 1, 3 do rank:receive(0) end
        rank:wait_until(2) -- has passed
      end })
    assert.equal(6.0, played.seconds)
  end)

  it("are not used inside a host", function()
    local world = world_of(1, LINK, 2)
    world.near = { alpha = 0.5, beta = 0.25 }
    local played = play(world, { [0] = function(rank) rank:send(1, 2) end,
                                 [1] = function(rank) rank:receive(0) end })
    assert.same({ 1.0, 0 }, { played.seconds, played.host_bytes })
  end)

  it("tell ranks that wait for nobody", function()
    assert.has_error(function()
      play(world_of(2, LINK), { [0] = function(rank) rank:receive(1) end })
    end, "1 ranks wait for messages that nobody sends")
  end)
end)

describe("a step on ranks", function()
  --- Played and by formula.
  local function both(way, shape, link)
    local world = world_of(shape.ranks, link)
    return model.play(way, shape, world), model.formula(way, shape, world)
  end

  for _, P in ipairs(RANKS) do
    it(("takes what the formulas say, on %d ranks"):format(P), function()
      local cases = { { "data", "direct" }, { "overlap", "direct" }, { "data", "halving" },
                      { "overlap", "halving" }, { "scan" }, { "gather" }, { "chain" } }
      for _, case in ipairs(cases) do
        local way, sum = case[1], case[2]
        local halves = P & (P - 1) == 0
        if sum == "halving" and halves or sum == "direct" and P <= 64 or not sum then
          for _, link in ipairs(P > 64 and { "10g" } or { "1g", "10g", "100g" }) do
            local played, judged = both(way, shape_of(P, 4096, { sum = sum,
              buckets = P > 64 and 3 or 6, layers = P > 64 and 2 or 12, params = 1000003 }), link)
            local what = ("%s %s %s"):format(way, sum or "", link)
            within(judged.seconds, played.seconds, 0.05, what)
            assert.equal(judged.messages, played.messages, what)
            assert.equal(judged.bytes, played.bytes, what)
          end
        end
      end
    end)
  end

  -- Efficiencies in percent of a 16-core host of 1.2 TFLOP/s, from the design's cost model, which
  -- was worked out without this one: without and with overlap; scan, gather, chain of 1 and 8 rows.
  local AT = { 2, 8, 64, 512, 4096 }
  local DATA = {
    { "1g", 4096, { 43, 55 }, { 30, 35 }, { 28, 32 }, { 27, 32 }, { 27, 32 } },
    { "1g", 32768, { 85, 91 }, { 77, 85 }, { 74, 84 }, { 74, 84 }, { 74, 84 } },
    { "10g", 4096, { 89, 95 }, { 83, 91 }, { 81, 90 }, { 81, 90 }, { 80, 90 } },
    { "10g", 32768, { 98, 99 }, { 97, 99 }, { 97, 99 }, { 97, 99 }, { 97, 99 } },
  }
  local SEGMENTS = {
    { "1g", 16384, { 91, 91, 99, 100 }, { 86, 78, 91, 99 }, { 80, 33, 53, 90 }, { 74, 6, 12, 53 } },
    { "10g", 4096, { 92, 92, 99, 100 }, { 90, 86, 92, 99 }, { 87, 53, 56, 91 },
      { 84, 13, 13, 55 } },
    { "10g", 16384, { 93, 93, 99, 100 }, { 92, 91, 92, 99 }, { 91, 78, 57, 92 },
      { 91, 37, 14, 57 } },
    { "100g", 4096, { 93, 93, 99, 100 }, { 93, 92, 92, 99 }, { 93, 87, 58, 92 },
      { 92, 58, 14, 57 } },
  }

  --- A percentage, as it was rounded, or within 5 % of it.
  local function near(want, efficiency, what)
    within(want, 100 * efficiency, math.max(0.05, 0.51 / want), what)
  end

  it("is as efficient as the design says, data parallel", function()
    for _, line in ipairs(DATA) do
      for i, P in ipairs(AT) do
        for k, way in ipairs { "data", "overlap" } do
          local shape = shape_of(P, line[2], { sum = "halving", buckets = P > 64 and 4 or 6 })
          if P <= 512 or line[2] == 4096 and line[1] == "1g" then -- 2 s each
            near(line[i + 2][k], model.play(way, shape, world_of(P, line[1])).efficiency,
                 ("%s %d %d %s"):format(line[1], line[2], P, way))
          end
        end
      end
    end
  end)

  it("is as efficient as the design says, in segments", function()
    for _, line in ipairs(SEGMENTS) do
      for i = 1, #line - 2 do
        local list = { { "scan", 1 }, { "gather", 1 }, { "chain", 1 }, { "chain", 8 } }
        for k, case in ipairs(list) do
          local shape = shape_of(AT[i], line[2], { rows = case[2] })
          near(line[i + 2][k], model.play(case[1], shape, world_of(AT[i], line[1])).efficiency,
               ("%s %d %d %s %d"):format(line[1], line[2], AT[i], case[1], case[2]))
        end
      end
    end
  end)

  it("sends whole nodes of the lanes' tree", function()
    local counts = {}
    for P = 2, 8 do counts[#counts + 1] = select(2, model.vectors(8, P)) end
    assert.same({ 2, 5, 4, 6, 6, 7, 8 }, counts) -- as the engine does
    for P = 2, 8 do
      local played, judged = both("data", shape_of(P, 64, { lanes = 8, params = 100003 }), "10g")
      assert.equal(judged.messages, played.messages)
      assert.equal(judged.bytes, played.bytes)
      assert.equal(P & (P - 1) == 0, judged.seconds ~= nil)
      assert.equal("direct", played.sum)
    end
    assert.is_true(model.can_halve(8, 4) and model.can_halve(16, 16))
    assert.is_false(model.can_halve(12, 4) or model.can_halve(9, 3))
  end)

  it("sums as the engine does, on any number of ranks", function() -- spec/c/many_ranks_test.c
    local function count(P, lanes, params)
      local shape = shape_of(P, 64, { lanes = lanes, params = params })
      local played, judged = both("data", shape, "10g")
      assert.equal("direct", played.sum)
      assert.equal(judged.messages, played.messages)
      assert.equal(judged.bytes, played.bytes)
      return played.messages
    end
    assert.equal(96 * 95 * 2, count(96, 96, 96 * 32768))
    assert.equal(96 * 95 * 2 * 3, count(96, 96, 96 * 65536 * 3)) -- rounds of 65,536 of each
    local _, nodes = model.vectors(200, 96)
    assert.equal(95 * (nodes + 96), count(96, 200, 96 * 32768))
    assert.equal(31 * 127 * 2, count(128, 128, 31 * 32768)) -- blocks fewer than ranks
    local shards, most = model.shards(1000003, 3)
    assert.same({ 11 * 32768, 10 * 32768, 1000003 - 21 * 32768 },
                { shards[0], shards[1], shards[2] })
    assert.equal(11 * 32768, most)
  end)

  it("takes what the formulas say where groups of ranks share rows", function()
    for _, way in ipairs { "scan", "gather", "chain" } do
      for _, case in ipairs { { 4, 2, 2 }, { 8, 4, 2 }, { 16, 4, 8 }, { 12, 3, 4 }, { 64, 8, 8 },
                              { 6, 1, 6 }, { 6, 1, 12 }, { 5, 5, 3 }, { 128, 8, 32 } } do
        local ranks, row, lanes = table.unpack(case)
        for _, link in ipairs { "1g", "10g" } do
          local shape = shape_of(ranks, 4096, { row_ranks = row, lanes = lanes, params = 1000003 })
          local played, judged = both(way, shape, link)
          local what = ("%s %s: %d lanes of %d ranks, %d a row"):format(way, link, lanes, ranks,
            row)
          within(judged.seconds, played.seconds, 0.05, what)
          assert.equal(judged.messages, played.messages, what)
          assert.equal(judged.bytes, played.bytes, what)
        end
      end
    end
  end)

  it("shares a row among all ranks, or each row alone, as the other ways do", function()
    local whole = shape_of(8, 4096, {})
    local apart, all = shape_of(8, 4096, { row_ranks = 1 }), shape_of(8, 4096, { row_ranks = 8 })
    local sum = model.formula("data", shape_of(8, 4096, {}), world_of(8, "10g"))
    for _, way in ipairs { "scan", "gather", "chain" } do
      local states = model.formula(way, whole, world_of(8, "10g"))
      for shape, want in pairs { [apart] = sum.bytes, [all] = sum.bytes + states.bytes } do
        assert.equal(want, model.play(way, shape, world_of(8, "10g")).bytes)
      end
    end
    -- 8 rows on groups of 2 have 8 / 4 lanes, of which each rank has a vector to send.
    local pairs_of = shape_of(8, 4096, { row_ranks = 2, lanes = 8, params = 8 * 32768 })
    local two = model.play("chain", pairs_of, world_of(8, "10g"))
    assert.equal(8 * 12 * 2 + 7 * (8 * 2 + 8), two.messages)
  end)

  it("has groups of ranks wait for the one with the most lanes", function()
    local shape = shape_of(6, 4096, { row_ranks = 2, lanes = 4, rate = 1e9 })
    local played, judged = both("chain", shape, "100g")
    assert.is_nil(judged.seconds)
    within(4 / 6, played.efficiency, 0.06) -- 4 lanes in the time of 6
  end)

  it("waits for the rank with the most lanes", function()
    local slow = shape_of(3, 4096, { lanes = 8, rate = 1e9 })
    local played = model.play("data", slow, world_of(3, "100g"))
    within(8 / 9, played.efficiency, 0.01) -- 8 lanes in the time of 9
  end)

  it("sends from a host what was counted on real links", function()
    --- MB of a host of 4 with 2 ranks each, in a sum of 4 MB.
    local function megabytes(sum, by_node)
      local shape = shape_of(8, 64, { params = 1000000, sum = sum, buckets = 1 })
      return 1e-6 * model.play("data", shape, world_of(4, "1g", 2, by_node)).host_bytes
    end
    within(6.03, megabytes("halving", false), 0.01) -- with frames
    within(12.05, megabytes("halving", true), 0.01)
    within(12.07, megabytes("direct", false), 0.02) -- in whole blocks
    within(12.07, megabytes("direct", true), 0.02)
  end)

  it("moves a rank's states whatever the length", function()
    for way, want in pairs { scan = 3.2, gather = 33.5, chain = 0.53 } do -- MB a layer, forward
      for _, tokens in ipairs { 64, 4096 } do
        local played = model.play(way, shape_of(64, tokens, { layers = 1 }), world_of(64, "10g"))
        within(want, 1e-6 * played.bytes / 2 / 64, 0.02, way)
      end
    end
  end)
end)

describe("performer bench ranks", function()
  local good, path, performer = commands.good, commands.path, commands.performer
  setup(commands.start)
  teardown(commands.stop)

  it("prints a record a way and number of hosts, and draws them", function()
    local picture = path "ranks.svg"
    local out, err = good("bench ranks --simulate --hosts 8,2 --tokens 256 --json --out "
      .. picture)
    local list, seen = commands.records(out), {}
    for i, r in ipairs(list) do
      seen[i] = r.hosts .. " " .. r.way
      commands.assert_fields(r, { case = "string", simulated = "boolean", ranks = "integer",
        step_ms = "number", talk_ms = "number", efficiency = "number", tokens_per_s = "number",
        messages = "integer", bytes = "integer", bytes_per_host = "integer",
        formula_ms = "number", from_formula = "number", params = "integer",
        state_bytes = "integer", threads = "integer" })
      within(r.formula_ms, r.step_ms, 0.05)
      within(r.ranks * 256 / r.step_ms * 1e3, r.tokens_per_s, 1e-9)
    end
    local wanted = {}
    for _, hosts in ipairs { 2, 8 } do
      for _, way in ipairs(model.WAYS) do wanted[#wanted + 1] = hosts .. " " .. way end
    end
    assert.same(wanted, seen)
    assert.equal(12 * 512 * 512 * 4 + 256 * 512, list[1].params)
    assert.equal(8 * 256 * 65 * 4, list[1].state_bytes)
    assert.truthy(err:find("wrote " .. picture, 1, true))
    for _, way in ipairs(model.WAYS) do
      assert.truthy(support.read(picture):find(">" .. way .. "</text>", 1, true))
    end
  end)

  it("plays groups of ranks that share rows, with the gradient's sum", function()
    local list = commands.records(good "bench ranks --simulate --hosts 8 --row-ranks 2 --json")
    assert.equal(3, #list)
    for i, way in ipairs { "scan", "gather", "chain" } do
      local r = list[i]
      assert.same({ way, "direct", 2, 4 }, { r.way, r.sum, r.row_ranks, r.lanes })
      within(r.formula_ms, r.step_ms, 0.05)
      within(8 * 4096 / r.step_ms * 1e3, r.tokens_per_s, 1e-9)
    end
  end)

  it("prints a table, with what it was played on above it, and what it says below", function()
    local out, err = good "bench ranks --simulate --hosts 3 --way data --link 50:117 --params 1000"
    local lines = {}
    for line in out:gmatch "[^\n]+" do lines[#lines + 1] = line end
    assert.matches("^bench ranks: played, not measured: link 50 us, 117 MB/s; a host 1200 GFLOP/s, "
      .. "1 rank; 1000 parameters", lines[1])
    assert.matches("^way +sum +ranks +hosts +step ms +talk ms +efficiency", lines[2])
    assert.matches("^data +direct +3 +3 .* 0%.0 %%$", lines[3])
    assert.equal(3, #lines)
    assert.matches("efficiency: what a rank does beside one alone; of a host: what the busi", err)
    assert.is_nil(err:find "rows alone")
    assert.matches("scan, gather, chain: rows alone",
                   select(2, good "bench ranks --simulate --hosts 3"))
  end)

  it("refuses what can't be, and says what measures", function()
    for words, pattern in pairs {
      [""] = "have to be started.*mpirun %-n 2 .*ping.*%-%-simulate",
      ["--simulate --hosts 2,x"] = "'x' is no number of hosts: give 8",
      ["--simulate --hosts 1"] = "1 ranks; what is played has 2 to 4096",
      ["--simulate --hosts 64 --ranks-per-host 65"] = "4160 ranks; what is played has 2 to 4096",
      ["--simulate --link 2g"] = "'2g' is no link: give 1g, 10g",
      ["--simulate --link 5:0"] = "'5:0' is no link",
      ["--simulate --rate 0"] = "a host that computes nothing",
      ["--simulate --hosts 8 --lanes 7"] = "7 for 8 ranks: there must be a lane for each",
      ["--simulate --hosts 3 --sum halving"] = "3 lanes on 3 ranks; it takes 2, 4, 8",
      ["--simulate --params 3 --buckets 6"] = "%-%-buckets 6 for 3 parameters",
      ["--simulate --hosts 6 --row-ranks 4"] = "%-%-row%-ranks 4 does not divide the 6 ranks",
      ["--simulate --hosts 8 --row-ranks 2 --lanes 3"] = "3 for 4 groups of ranks: there must",
      ["--simulate --way data --row-ranks 2"] = "for rows in segments, and %-%-way data has whole",
      ["--simulate --hosts 8 --row-ranks 2 --sum halving"] = "groups that share rows sum directly",
      ["--simulate --way chian"] = "did you mean 'chain'",
    } do
      local code, out, err = performer("bench ranks " .. words)
      assert.same({ 2, "" }, { code, out }, words)
      commands.assert_sentence(err, pattern)
    end
    local out, err = good "bench ranks --simulate --hosts 3000 --way gather"
    assert.equal("", out)
    assert.matches("left out: 71976000 messages a step", err)
  end)
end)

describe("ping", function()
  local ping = support.build .. "/examples/ping"

  -- By its path: what a sanitizer loads for a program is not looked for beside that.
  local plugin = support.build .. "/lib/libperformer_mpi.so"

  --- Is there an mpirun, and the plugin for its MPI?
  local function has_ranks()
    return commands.exists(plugin)
      and support.shell "command -v mpirun" == 0
  end

  it("says what a link does, in the words that the simulator takes", function()
    if not has_ranks() then return pending "no MPI here" end
    local code, out, err = support.shell(("ASAN_OPTIONS=$ASAN_OPTIONS:detect_leaks=0 " -- MPI's own
      .. "timeout -k 5 60 mpirun --allow-run-as-root "
      .. "--oversubscribe --bind-to none -n 3 '%s' 16 '%s'"):format(ping, plugin))
    assert.equal(0, code, err)
    assert.matches("3 ranks\nlink: [%d.]+ us, %d+ MB/s; sum of 16%.0 MB: "
      .. "[%d.]+ ms\n", out)
    local words = out:match "performer (bench ranks [^\n]*)\n"
    local played = commands.good(words .. " --way data --params 4000000 --json")
    assert.equal(3, commands.records(played)[1].ranks)
  end)

  it("refuses what it can't", function()
    local code, _, err = support.shell(("'%s' 1"):format(ping))
    assert.same({ 2, "ping: '1' is no size: give 16 to 1024 (MB)\n" }, { code, err })
    code, _, err = support.shell(("'%s' 16 /none.so"):format(ping))
    assert.equal(1, code)
    assert.matches("^ping: /none%.so: .*No such file", err)
    if not has_ranks() then return end
    code, _, err = support.shell(("'%s' 16 '%s'"):format(ping, plugin))
    assert.equal(1, code)
    assert.matches("one rank: start two or more, with mpirun %-n 2", err)
  end)
end)
