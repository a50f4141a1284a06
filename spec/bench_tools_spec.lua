-- bench_tools_spec.lua - how `performer bench` measures: turns, and shares within a turn, on a
-- machine whose speed changes from turn to turn.
local tools = require "kit.bench_tools"

describe("the turns of bench", function()
  --- Functions that say that they took `work` times what the machine needs now.
  local function slowing(works)
    local calls, order, machine = {}, {}, { 1, 7, 1, 3, 9, 2 } -- the first is the warm-up's
    for i, work in ipairs(works) do
      local called = 0
      calls[i] = function()
        called = called + 1
        order[#order + 1] = i
        return work * machine[called]
      end
    end
    return calls, order
  end

  it("call each function once a turn, after a warm-up", function()
    local calls, order = slowing { 1, 1, 1 }
    local turns = tools.in_turns(calls, 2)
    assert.same({ 1, 2, 3, 1, 2, 3, 1, 2, 3 }, order)
    assert.same({ { 7, 7, 7 }, { 1, 1, 1 } }, turns)
  end)

  it("give ratios and shares that a busy machine does not move", function()
    local yard = tools.YARD_GFLOP -- seconds at one GFLOP/s
    local turns = tools.in_turns(slowing { 2, 6, yard }, 5)
    assert.equal(6, tools.over(turns, 1)) -- 14, 2, 6, 18, 4
    assert.equal(3, tools.over(turns, function(t) return t[2] / t[1] end))
    -- 1 GFLOP in 2 seconds beside 1 GFLOP/s on each of two threads
    assert.near(0.25, tools.over(turns, tools.share_of_gemm(1, 1, 3, 2)), 1e-12)
  end)

  it("leave the turns as they came", function()
    local values = { 3, 1, 2 }
    assert.equal(2, tools.median(values))
    assert.same({ 3, 1, 2 }, values)
  end)
end)
