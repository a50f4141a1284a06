--- 08_pointer_sort.lua - a pointer network learns to sort ten numbers: its answer is not a word
-- of a vocabulary but places in its input. Queries are "smallest", "second" ...; keys are the
-- numbers, after a few layers in which they have seen each other.
--
--   build/release/bin/performer examples/08_pointer_sort.lua [steps] [favor|exact]
local pf = require "performer"
local nn = pf.nn
local steps, which = tonumber(arg[1] or 600), arg[2] or "favor"
pf.open { seed = 8 }
local count, rows, dim, width, waves = 10, 64, 64, 16, 16

-- Pointing is a softmax over places. FAVOR+ estimates both its score and its sum, in O(m) a
-- query however many places there are; what it learns is a softmax of its own.
local kernel = which == "exact" and "exact"
  or pf.kernel.softmax { head_dim = width, features = 256, seed = 1 }

-- A number as waves of several lengths, so that near ones can be told apart.
local frequencies = pf.zeros(waves):copy_(pf.arange(waves, { dtype = "i32" })) * math.pi
local function spread(numbers) -- (rows, count) -> (rows, count, waves)
  return (numbers:reshape(rows, count, 1) * frequencies):cos()
end

local sorter = {
  name = "sorter", from = nn.linear { from = waves, to = dim }, blocks = {},
  norm = nn.layernorm(dim), key = nn.linear { from = dim, to = width },
  ranks = pf.randn(1, count, width),
}
for i = 1, 3 do -- no positions: the order of the input says nothing
  sorter.blocks[i] = nn.block { dim = dim, heads = 4, causal = false, kernel = { features = 64 } }
end
function sorter:forward(numbers) -- (rows, count) -> keys (rows, count, width)
  local x = self.from(spread(numbers))
  for _, block in ipairs(self.blocks) do x = block(x) end
  return self.key(self.norm(x))
end
local model = nn.module(sorter)
local function queries() return sorter.ranks + pf.zeros(rows, 1, 1) end

--- Numbers (rows, count), and where the smallest, the second ... stand, from 1.
local function draw()
  local numbers, order = pf.rand(rows, count), {}
  for r, row in ipairs(numbers:totable()) do
    order[r] = {}
    for i = 1, count do order[r][i] = i end
    table.sort(order[r], function(a, b) return row[a] < row[b] end)
  end
  return numbers, pf.tensor(order, { dtype = "i32" }), order
end

--- The share of ranks of fresh numbers that point to the right place; numbers, and places.
local function try()
  local numbers, _, order = draw()
  local places, right = pf.attention.pointer(queries(), model(numbers), { kernel = kernel })
    :argmax(-1):totable(), 0
  for r, row in ipairs(places) do
    for i, place in ipairs(row) do right = right + (place == order[r][i] and 1 or 0) end
  end
  return 100 * right / (rows * count), numbers:totable()[1], places[1]
end

local optimizer = pf.optim.adamw(model, { lr = 3e-3 })
local lr = pf.schedule.cosine { warmup = 30, steps = steps, peak = 3e-3 }
for step = 1, steps do
  local numbers, targets = draw()
  local tape <close> = pf.tape()
  local log_p = pf.attention.pointer(queries(), model(numbers),
    { kernel = kernel, targets = targets })
  tape:backward(-log_p:mean())
  optimizer:step { lr = lr(step), clip = 1 }
  if step % math.max(1, steps // 10) == 0 then
    print(("step %4d  loss %.3f  right %5.1f %%"):format(step, -log_p:mean():item(), (try())))
  end
end

local _, numbers, places = try()
local sorted = {}
for i, place in ipairs(places) do sorted[i] = ("%.2f"):format(numbers[place]) end
print("sorted: " .. table.concat(sorted, " "))
