-- Tables of which a step reads a few rows: an optimizer's group with rows = "touched" moves the
-- rows that have a gradient, by its formula, and leaves the others as they are.
local pf = require "performer"

local ROWS, WIDTH = 40, 3

local function table_of()
  pf.seed(3)
  return pf.randn(ROWS, WIDTH):requires_grad()
end

--- Adds the gradient of a loss in which each named row has another part every time.
local function look_up(w, ids, factor)
  local tape <close> = pf.tape()
  local rows = pf.embedding(w, pf.tensor(ids, { dtype = "i32" }))
  tape:backward(((rows - 0.3) * (rows * factor)):sum())
end

local function optimizer(name, w, more)
  local group = { match = "w", rows = "touched" }
  for key, value in pairs(more or {}) do group[key] = value end
  return pf.optim[name]({ w = w }, { lr = 0.05, groups = { group } })
end

--- The option that says how long a mean gradient is remembered, of a row of pf.optimizers().
local function mean_of(row)
  for _, option in ipairs(row.options) do if option.name == "beta1" then return "beta1" end end
  return "momentum"
end

local function rows_of(w)
  local rows = {}
  for i = 1, ROWS do rows[i - 1] = w:slice(1, i, i):tobytes() end
  return rows
end

describe("touched rows", function()
  for _, row in ipairs(pf.optimizers()) do
    it("alone are moved, decay and moments too: " .. row.name, function()
      local w = table_of()
      local opt, before = optimizer(row.name, w, { decay = 0.5 }), rows_of(w)
      look_up(w, { 4, 9, 4, 39 }, 1)
      opt:step {}
      local first = rows_of(w)
      look_up(w, { 9, 0 }, 1)
      opt:step {}
      local second = rows_of(w)
      for i = 0, ROWS - 1 do
        assert.equal(i == 4 or i == 9 or i == 39, first[i] ~= before[i], i)
        assert.equal(i == 9 or i == 0, second[i] ~= first[i], i)
      end
    end)

    it("are moved as all are, to the same bits: " .. row.name, function()
      local all = {}
      for i = 1, ROWS do all[i] = i - 1 end
      local ways = {}
      for i, rows in ipairs { "touched", "all" } do
        local w = table_of()
        local opt = optimizer(row.name, w, { rows = rows, decay = 0.2, [mean_of(row)] = 0.6 })
        for step = 1, 4 do
          look_up(w, all, step)
          look_up(w, { 3, step, 3 }, 0.5) -- adds up
          opt:step {}
        end
        ways[i] = w:tobytes()
      end
      assert.is_true(ways[1] == ways[2])
    end)

    it("have no mean gradient where none is asked for: " .. row.name, function()
      local ways = {}
      for i, mean in ipairs { false, 0, 0.99 } do
        local w = table_of()
        local opt = optimizer(row.name, w, { [mean_of(row)] = mean or nil })
        for step = 1, 3 do
          look_up(w, { 3, step, 3 }, step - 2.5)
          opt:step {}
        end
        ways[i] = w:tobytes()
      end
      assert.is_true(ways[1] == ways[2])
      assert.is_false(ways[1] == ways[3])
    end)
  end

  it("have the norm of all, and clipping's factor", function()
    local w = table_of()
    look_up(w, { 4, 9, 4, 39 }, 3)
    local norm = (w:grad() * w:grad()):sum():item() ^ 0.5
    assert.near(norm, optimizer("sgd", w):step { clip = norm / 7 }, 1e-5 * norm)
    local free, clipped = table_of(), table_of()
    for _, side in ipairs { { free, 0 }, { clipped, norm / 4 } } do
      look_up(side[1], { 4, 9, 4, 39 }, 3)
      optimizer("sgd", side[1], { decay = 0 }):step { clip = side[2] }
    end
    local start = table_of()
    local far, near = (free - start):totable(), (clipped - start):totable()
    for i = 1, ROWS do
      for k = 1, WIDTH do
        assert.near(far[i][k] / 4, near[i][k], 1e-5 * math.abs(far[i][k]) + 1e-8)
      end
    end
  end)

  it("are those whose numbers are not zero, whoever wrote them", function()
    local looked, plain = table_of(), table_of()
    local a, b = optimizer("adamw", looked), optimizer("adamw", plain)
    for step = 1, 3 do
      for _, w in ipairs { looked, plain } do look_up(w, { step, 7, 12 }, step) end
      local tape <close> = pf.tape() -- a gradient of zeros, of all rows: none is touched by it
      tape:backward((looked * 0):sum())
      looked:grad()
      a:step { clip = 0.1 }
      b:step { clip = 0.1 }
      assert.equal(plain:tobytes(), looked:tobytes())
    end
    look_up(looked, { 1 }, 1)
    local grad, before = looked:grad(), rows_of(looked)
    grad:copy_(pf.zeros(ROWS, WIDTH))
    grad:slice(1, 21, 21):copy_(pf.ones(1, WIDTH))
    a:step {}
    local after = rows_of(looked)
    for i = 0, ROWS - 1 do assert.equal(i == 20, after[i] ~= before[i], i) end
  end)

  it("leave averages right: those of other rows go on too", function()
    local w = table_of()
    local opt = pf.optim.sgd({ w = w }, { momentum = 0, ema = 0.5, lr = 0.1,
                                          groups = { { match = "w", rows = "touched" } } })
    local want = w:slice(1, 5, 5):reshape(-1):totable()
    for step, ids in ipairs { { 4 }, { 9 }, { 11 }, { 4 } } do
      look_up(w, ids, 1)
      opt:step {}
      local at = w:slice(1, 5, 5):reshape(-1):totable()
      local rate = math.min(0.5, (1 + step) / (10 + step))
      for k = 1, WIDTH do want[k] = want[k] + (1 - rate) * (at[k] - want[k]) end
    end
    opt:averaged(function()
      local got = w:slice(1, 5, 5):reshape(-1):totable()
      for k = 1, WIDTH do assert.near(want[k], got[k], 1e-6) end
    end)
  end)
end)
