-- state_corpus.lua - real files of states to begin with: performer spec/fuzz/state_corpus.lua DIR,
-- then build/fuzz/bin/state_fuzz -max_total_time=60 DIR.
local pf = require "performer"
local nn = pf.nn

local folder = assert(arg[1], "name a folder for the files")
local count = 0

local function path()
  count = count + 1
  return ("%s/%02d.safetensors"):format(folder, count)
end

--- A state of attention alone after three positions, the last one a step.
local function alone(kernel, batch, decay)
  local state = pf.attention.state { kernel = kernel, batch = batch, heads = 2, head_dim = 4,
    value_dim = 3, decay = decay }
  local function rows(n, width) return pf.randn(batch, 2, n, width) end
  state:prefill(rows(2, 4), rows(2, 4), rows(2, 3))
  state:step(rows(1, 4), rows(1, 4), rows(1, 3))
  assert(state:save(path()))
end

pf.seed(1)
local decay = pf.tensor { 0.3, 0.01 }
for _, map in ipairs(pf.kernels().maps) do
  alone(pf.kernel[map.name] { head_dim = 4, features = map.softmax and 2 or nil, seed = 3 }, 1)
end
alone(pf.kernel.relu { head_dim = 4, features = 3, per_head = true, seed = 3 }, 2, decay)
alone(pf.kernel.softmax { head_dim = 4, features = 2, seed = 3 }, 2, decay)
alone(pf.kernel.custom { map = function(x) return x:elu() + 1 end }, 1)
alone("exact", 2, decay)
assert(pf.attention.state { kernel = "exact", head_dim = 4 }:save(path()))

--- The model of state_fuzz.c: what its layers keep has the same shapes.
local function number(x, state)
  state.n, state.last = (state.n or 0) + 1, x:detach()
  return x
end
local model = nn.chain {
  nn.embedding { vocab = 5, dim = 4 },
  nn.block { dim = 4, heads = 2, causal = true, conv = 3,
             kernel = { name = "softmax", features = 2 } },
  nn.block { dim = 4, heads = 2, causal = true, attention = "exact" },
  { name = "number", forward = function(_, x) return x end,
    step = function(_, x, state) return number(x, state) end },
  nn.linear { from = 4, to = 5 },
}
for batch = 1, 2 do
  local stream = model:stream { batch = batch }
  if batch == 1 then stream:feed { 1, 2, 3 } else stream:feed { { 1, 2 }, { 3, 4 } } end
  assert(stream:save(path()))
  assert(model:state { batch = batch }:save(path()))
end
print(count .. " files in " .. folder)
