-- recall_spec.lua - the recall task is what it says: rows follow from seed and number alone, every
-- target is what stood behind the same key before, and who finds that scores in full.
local recall = require "kit.recall"

describe("the recall task", function()
  local task = recall.new { length = 60, keys = 8, values = 5, seed = 4 }

  it("asks for what stood behind the key before, once it can be known", function()
    local asked = 0
    for number = 1, 20 do
      local ids, wanted, back = task:row(number)
      assert.equal(60, #ids)
      local last = {}
      for i = 1, 59, 2 do
        local key = ids[i]
        assert.is_true(key >= 0 and key < 8 and ids[i + 1] >= 8 and ids[i + 1] < task.vocab)
        assert.equal(last[key] and ids[last[key] + 1] or -1, wanted[i])
        assert.equal(last[key] and i - last[key], back[i])
        assert.equal(wanted[i] >= 0 and wanted[i] or ids[i + 1], ids[i + 1])
        assert.equal(-1, wanted[i + 1])
        asked, last[key] = asked + (last[key] and 1 or 0), i
      end
    end
    assert.is_true(asked > 300)
  end)

  it("has the same rows whoever draws numbers in between, and others for other seeds", function()
    math.randomseed(1)
    local first = task:row(3)
    math.randomseed(2)
    math.random()
    assert.same(first, (task:row(3)))
    assert.are_not.same(first, (task:row(4)))
    assert.are_not.same(first, (recall.new { length = 60, keys = 8, values = 5 }:row(3)))
    local batch = task:batch(2, 3)
    assert.same((task:row(7)), batch.input:totable()[1])
    assert.same(select(2, task:row(9)), batch.target:totable()[3])
  end)

  it("draws keys and values evenly, and rows apart from one another", function()
    local keys, values, equal, all = {}, {}, 0, 0
    local before = task:row(0)
    for number = 1, 400 do
      local ids = task:row(number)
      local met = {}
      for i = 1, 59, 2 do
        keys[ids[i]] = (keys[ids[i]] or 0) + 1
        if not met[ids[i]] then
          met[ids[i]], values[ids[i + 1]] = true, (values[ids[i + 1]] or 0) + 1
        end
        -- A stream of numbers that neighbours share, a place apart, would show here.
        if i > 1 then equal, all = equal + (ids[i] == before[i - 2] and 1 or 0), all + 1 end
      end
      before = ids
    end
    for id = 0, 7 do assert.near(12000 / 8, keys[id], 200) end
    local sum = 0
    for _, n in pairs(values) do sum = sum + n end
    for id = 8, 12 do assert.near(sum / 5, values[id], 120) end
    assert.near(1 / 8, equal / all, 0.02)
  end)

  it("gives full marks to who looks back, and a guess's to who doesn't", function()
    local pf = require "performer"
    --- Logits of 9 for what `say` says at each position of each row, 0 elsewhere.
    local function model(say)
      return function(input)
        local rows = input:totable()
        for r, ids in ipairs(rows) do
          local line = {}
          for i = 1, #ids do
            local said = say(ids, i)
            line[i] = {}
            for id = 0, task.vocab - 1 do line[i][id + 1] = id == said and 9 or 0 end
          end
          rows[r] = line
        end
        return pf.tensor(rows)
      end
    end
    local function look_back(ids, i, near)
      for j = i - 2, math.max(1, i - (near or i)), -2 do
        if ids[j] == ids[i] then return ids[j + 1] end
      end
      return 0
    end
    local told = task:judge(model(look_back), 3, 4)
    assert.equal(1, told.accuracy)
    assert.equal(1, told.accuracy_far)
    assert.is_true(told.loss < 0.01)
    told = task:judge(model(function(ids, i) return look_back(ids, i, task.far) end), 3, 4)
    assert.is_true(told.accuracy > 0.5 and told.accuracy < 0.95)
    assert.equal(0, told.accuracy_far)
    told = task:judge(model(function() return -1 end), 3, 4)
    assert.near(math.log(task.vocab), told.loss, 1e-5)
  end)
end)
