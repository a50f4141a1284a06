-- performer/custom.lua: multi-head attention with a kernel written in Lua.
--
-- nn.attention{kernel = pf.kernel.custom{...}} makes this layer: the options and the tensors of
-- the engine's own (one matrix for q, k and v, one behind), with the features made by the
-- kernel's map. It lives in the script: a checkpoint holds its tensors and its name, and
-- nn.define(name, function() return nn.attention{...} end) makes it again for loading.
local core = require "performer.core"
local util = require "performer.util"

local OPTIONS = { "name", "kernel", "dim", "heads", "head_dim", "causal", "bias", "dropout",
                  "rotary", "rotary_base", "qk_norm", "decay", "layers", "layer" }

local Attention = {}

--- Parts that the map learns with are found and trained as the layer's own.
local function sizes(options)
  local heads, dim = options.heads or 8, options.dim
  if math.type(dim) ~= "integer" or dim < 1 then
    util.fail("nn.attention: dim is needed, a whole number, got %s", tostring(dim))
  end
  if math.type(heads) ~= "integer" or heads < 1 then
    util.fail("nn.attention: heads must be a whole number, got %s", tostring(heads))
  end
  local head_dim = options.head_dim or 0
  if head_dim == 0 then
    if dim % heads ~= 0 then
      util.fail("nn.attention: dim %d is not a multiple of heads %d; give head_dim", dim, heads)
    end
    head_dim = dim // heads
  end
  if options.rotary and head_dim % 2 ~= 0 then
    util.fail("nn.attention: rotary positions turn pairs of channels, and head_dim %d is odd",
      head_dim)
  end
  return dim, heads, head_dim
end

--- Log-decays of the heads, as the engine's layer has them.
local function decays(steepest, heads)
  local list = {}
  for h = 1, heads do list[h] = steepest * 2 ^ (-8 * (h - 1) / heads) end
  return core.tensor(list)
end

--- x (B, L, D) -> q, k, v (B, H, L, d), normed and turned. offset: positions before these.
function Attention:heads_of(x, positions, offset)
  local q, k, v = core.op.split_heads(self.qkv(x), { heads = self.heads })
  if self.q_norm then
    q = core.op.rmsnorm(q, self.q_norm, { eps = 1e-6 })
    k = core.op.rmsnorm(k, self.k_norm, { eps = 1e-6 })
  end
  if self.rotary then
    local turn = { base = self.rotary_base, halves = true, offset = offset,
                   positions = positions }
    q, k = core.op.rotary(q, turn), core.op.rotary(k, turn)
  end
  return q, k, v
end

--- out (B, H, L, d) -> (B, L, D)
function Attention:join(out)
  local B, L = out:size(1), out:size(3)
  return self.out(out:permute(1, 3, 2, 4):reshape(B, L, self.heads * self.head_dim))
end

function Attention:forward(x, pass)
  pass = pass or {}
  local positions = self.rotary and pass.documents and self.positions_of(pass.documents) or nil
  local q, k, v = self:heads_of(x, positions, 0)
  local out = self.attend(q, k, v, { kernel = self.kernel, causal = self.causal,
    mask = pass.mask, documents = pass.documents, prefix = pass.prefix,
    decay = self.buffers.decay })
  local y = self:join(out)
  return self.drop and self.drop(y, pass) or y
end

--- x (B, D), one position. The state is plain: tokens seen, and the sums of linear attention.
local function step(self, x, state)
  local B, D = x:size(1), x:size(2)
  local seen = state.seen or 0
  local q, k, v = self:heads_of(x:reshape(B, 1, D), nil, seen)
  local entry = state.s and { s = state.s, z = state.z, shift = state.shift } or nil
  local out, exit = self.attend(q, k, v, { kernel = self.kernel, causal = true, state = true,
    entry = entry, decay = self.buffers.decay })
  for name, sum in pairs(exit) do state[name] = sum:detach() end
  state.seen = seen + 1
  return self:join(out):reshape(B, D)
end

--- The position of each token in its own document, (B, L) i32.
local function positions_of(documents)
  local rows = documents:totable()
  for _, row in ipairs(rows) do
    local document, at = nil, 0
    for i, number in ipairs(row) do
      if number ~= document then document, at = number, 0 end
      row[i], at = at, at + 1
    end
  end
  return core.tensor(rows, { dtype = "i32" })
end

--- The layer as a table; nn makes a module of it. kernels: performer.kernel, nn: the layers.
return function(options, kernels, nn)
  util.check_options(options, OPTIONS, "nn.attention with a custom kernel")
  local dim, heads, head_dim = sizes(options)
  local inner, bias = heads * head_dim, options.bias or false
  local layer = setmetatable({
    name = options.name or "custom_attention", kernel = options.kernel,
    heads = heads, head_dim = head_dim, causal = options.causal or false,
    rotary = options.rotary or false, rotary_base = options.rotary_base or 10000,
    qkv = nn.linear { from = dim, to = 3 * inner, bias = bias },
    out = nn.linear { from = inner, to = dim, bias = bias,
                      init = (2 * (options.layers or 1)) ^ -0.5 },
    parameters = options.kernel.parameters, buffers = {},
    attend = kernels.attention.favor, positions_of = positions_of,
  }, { __index = Attention })
  layer.forward = Attention.forward
  if layer.causal then layer.step = step end
  if options.qk_norm then
    layer.q_norm, layer.k_norm = core.ones(head_dim), core.ones(head_dim)
  end
  if (options.dropout or 0) > 0 then layer.drop = nn.dropout(options.dropout) end
  if (options.decay or 0) > 0 then
    if not layer.causal then
      util.fail("nn.attention: decay is for causal attention (causal = true)")
    end
    layer.buffers.decay = decays(options.decay, heads)
  end
  return layer
end
