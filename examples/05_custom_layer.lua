--- 05_custom_layer.lua - a kernel and a layer of one's own, in Lua, made of ops.
--
--   build/release/bin/performer examples/05_custom_layer.lua [steps] [FOLDER]
local pf = require "performer"
local nn = pf.nn
local steps, folder = tonumber(arg[1] or 250), arg[2]
pf.open { seed = 5 }
math.randomseed(5)

-- A kernel is a feature map: (B, H, L, d) in, (B, H, L, r) out, never negative, so that no
-- denominator can vanish. This one turns a row into shares, of x and of -x, so r = 2 d.
local shares = pf.kernel.custom {
  map = function(x) return pf.concat({ x:softmax(-1), (-x):softmax(-1) }, -1) end,
}

-- A layer is a table with tensors, layers, and a `forward`. What it holds is found, trained and
-- saved. `step` does one position, with a table that lasts as long as the stream.
local function attend(dim, heads)
  local layer = { name = "attend", qkv = nn.linear { from = dim, to = 3 * dim },
                  sharpness = pf.full({ 1 }, 4), out = nn.linear { from = dim, to = dim } }
  function layer:heads_of(x) -- x (B, L, D) -> q, k, v (B, H, L, d)
    local q, k, v = self.qkv(x):split_heads { heads = heads }
    return q * self.sharpness, k * self.sharpness, v
  end
  function layer:forward(x)
    local q, k, v = self:heads_of(x)
    local y = pf.attention.favor(q, k, v, { kernel = shares, causal = true })
    return self.out(y:permute(1, 3, 2, 4):reshape(x:size(1), x:size(2), dim))
  end
  function layer:step(x, state) -- x (B, D)
    state.sums = state.sums or pf.attention.state { kernel = shares }
    local q, k, v = self:heads_of(x:reshape(x:size(1), 1, dim))
    return self.out(state.sums:step(q, k, v):reshape(x:size(1), dim))
  end
  return layer
end
nn.define("attend", function() return attend(32, 4) end) -- how a checkpoint's is made again

-- Is it right? Its gradients against differences, before any training.
local small = nn.module(attend(8, 2))
local report = pf.check.gradient(function(x) return small(x):square():sum() end, pf.randn(1, 6, 8))
print(("gradient of the layer: off by %.1e of the slope"):format(report.worst))

-- Rows that repeat a random word: after the first round every letter can be known.
local letters, word, length = 8, 6, 30
local function rows(n)
  local ids = {}
  for r = 1, n do
    ids[r] = {}
    for i = 1, length + 1 do ids[r][i] = ids[r][i - word] or math.random(0, letters - 1) end
  end
  ids = pf.tensor(ids, { dtype = "i32" })
  return ids:slice(2, 1, length), ids:slice(2, 2, length + 1)
end

local model = nn.chain {
  nn.embedding { vocab = letters, dim = 32 }, nn.positions { dim = 32 },
  nn.residual { nn.layernorm(32), attend(32, 4) }, nn.residual { nn.layernorm(32), nn.mlp(32) },
  nn.layernorm(32), nn.linear { from = 32, to = letters },
}
local optimizer = pf.optim.adamw(model, { lr = 1e-2 })
for step = 1, steps do
  local input, target = rows(16)
  local tape <close> = pf.tape()
  local logits = model(input)
  tape:backward(logits:cross_entropy(target))
  optimizer:step { clip = 1 }
  if step == 1 or step % math.max(1, steps // 5) == 0 then
    local known = logits:slice(2, word, -1):cross_entropy(target:slice(2, word, -1))
    print(("step %4d  loss on the repetitions %.3f"):format(step, known:item()))
  end
end
if folder then -- a checkpoint holds the layer's tensors and its name
  assert(pf.checkpoint.save(folder, { model = model, step = steps }))
  model = assert(pf.checkpoint.load(folder)).model
end
local prompt = rows(1):reshape(length):slice(1, 1, word)
local said = model:generate { prompt = prompt, tokens = 3 * word, temperature = 0 } -- by `step`
print("given " .. table.concat(prompt:totable(), " "), "said " .. table.concat(said:totable(), " "))
