-- plain_model.lua - a performer with exact attention once more, written as its options say it: one
-- sequence, lists of numbers in double precision, a loop for every sum. The judge of what options
-- make of a model. `require "spec.support.plain_model"`.
local plain_model = {}

-- ---- functions of numbers -----------------------------------------------------------------

--- erf by its series, and where that cancels by its continued fraction.
local function erf(x)
  if math.abs(x) > 3 then
    local fraction = 0
    for k = 60, 1, -1 do fraction = k / 2 / (math.abs(x) + fraction) end
    local tail = math.exp(-x * x) / math.sqrt(math.pi) / (math.abs(x) + fraction)
    return x > 0 and 1 - tail or tail - 1
  end
  local sum, term = x, x
  for n = 1, 80 do
    term = -term * x * x / n
    sum = sum + term / (2 * n + 1)
  end
  return 2 / math.sqrt(math.pi) * sum
end

local function sigmoid(x) return 1 / (1 + math.exp(-x)) end

local function tanh(x) return 1 - 2 / (math.exp(2 * x) + 1) end

local acts = {
  gelu = function(x) return x * (1 + erf(x / math.sqrt(2))) / 2 end,
  gelu_tanh = function(x)
    return x * (1 + tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ^ 3))) / 2
  end,
  relu = function(x) return math.max(x, 0) end,
  silu = function(x) return x * sigmoid(x) end,
  square_relu = function(x) return math.max(x, 0) ^ 2 end,
}
local gates = { swiglu = acts.silu, geglu = acts.gelu, geglu_tanh = acts.gelu_tanh,
                reglu = acts.relu, glu = sigmoid }

-- ---- rows of numbers ----------------------------------------------------------------------

local function each(row, f)
  local y = {}
  for i = 1, #row do y[i] = f(row[i], i) end
  return y
end

local function sum_of(a, b) return each(a, function(x, i) return x + b[i] end) end

--- A model at work: its options, and its tensors as lists by name.
local Plain = {}
Plain.__index = Plain

--- weight row + bias, of the linear layer called `name`; the bias where it has one.
function Plain:linear(name, row, weight, bias)
  weight, bias = weight or self.t[name .. ".weight"], bias or self.t[name .. ".bias"]
  return each(weight, function(w, i)
    local total = bias and bias[i] or 0
    for j = 1, #row do total = total + w[j] * row[j] end
    return total
  end)
end

function Plain:norm(name, row)
  local kind, n = self.o.norm or "layernorm", #row
  local weight, bias = self.t[name .. ".weight"], self.t[name .. ".bias"]
  local eps = self.o.norm_eps or 0
  if eps == 0 then eps = kind == "layernorm" and 1e-5 or 1e-6 end
  local mean, square = 0, 0
  if kind == "layernorm" then
    for i = 1, n do mean = mean + row[i] / n end
  end
  for i = 1, n do square = square + (row[i] - mean) ^ 2 / n end
  return each(row, function(x, i)
    local scale = kind == "scalenorm" and weight[1] / math.sqrt(n) or weight[i]
    return (x - mean) / math.sqrt(square + eps) * scale + (bias and bias[i] or 0)
  end)
end

--- The first half of the channels from the row before, the others from the row itself.
function Plain:shift(rows)
  if not self.o.token_shift then return rows end
  return each(rows, function(row, t)
    return each(row, function(x, c)
      if c > #row // 2 then return x end
      return t > 1 and rows[t - 1][c] or 0
    end)
  end)
end

-- ---- attention ----------------------------------------------------------------------------

function Plain:turn(head, position)
  local d, y = #head, each(head, function(x) return x end)
  for i = 0, d // 2 - 1 do
    local near = self.o.rotary_pairs == "neighbours"
    local one = near and 2 * i + 1 or i + 1
    local two = near and one + 1 or one + d // 2
    local angle = position * (self.o.rotary_base or 10000) ^ (-2 * i / d)
    local c, s = math.cos(angle), math.sin(angle)
    y[one], y[two] = head[one] * c - head[two] * s, head[one] * s + head[two] * c
  end
  return y
end

--- Numbers first + 1 .. first + d of a row, turned where positions are rotary.
function Plain:head(row, first, d, position)
  local head = table.move(row, first + 1, first + d, 1, {})
  if position and (self.o.positions or "rotary") == "rotary" then
    return self:turn(head, position)
  end
  return head
end

--- The mean of `values` with weights exp(q.k / sqrt(d)).
local function softmax_mean(q, keys, values, seen)
  local out, total, weights, top = {}, 0, {}, -math.huge
  for j = 1, seen do
    weights[j] = 0
    for i = 1, #q do weights[j] = weights[j] + q[i] * keys[j][i] / math.sqrt(#q) end
    top = math.max(top, weights[j])
  end
  for j = 1, seen do
    weights[j] = math.exp(weights[j] - top)
    total = total + weights[j]
  end
  for i = 1, #values[1] do
    out[i] = 0
    for j = 1, seen do out[i] = out[i] + weights[j] / total * values[j][i] end
  end
  return out
end

function Plain:attention(name, rows)
  local H, dim = self.o.heads, #rows[1]
  local groups = (self.o.kv_heads or 0) > 0 and self.o.kv_heads or H
  local d, mixed = dim // H, each(rows, function() return {} end)
  local qkv = each(rows, function(row) return self:linear(name .. ".qkv", row) end)
  for h = 0, H - 1 do
    local g, keys, values = h // (H // groups), {}, {}
    for t, row in ipairs(qkv) do
      keys[t] = self:head(row, dim + g * d, d, t - 1)
      values[t] = self:head(row, dim + groups * d + g * d, d)
    end
    for t, row in ipairs(qkv) do
      local q = self:head(row, h * d, d, t - 1)
      local out = softmax_mean(q, keys, values, self.o.causal and t or #rows)
      table.move(out, 1, d, h * d + 1, mixed[t])
    end
  end
  return each(mixed, function(row) return self:linear(name .. ".out", row) end)
end

-- ---- the model ----------------------------------------------------------------------------

function Plain:mlp(name, row)
  local up, act = self:linear(name .. ".up", row), self.o.act or "gelu"
  if gates[act] then
    local gate = each(self:linear(name .. ".gate", row), gates[act])
    up = each(up, function(x, i) return gate[i] * x end)
  else
    up = each(up, acts[act])
  end
  return self:linear(name .. ".down", up)
end

--- rows and what branch f adds to them, by the option `residual`.
function Plain:add(rows, norm, scale, f)
  local residual = self.o.residual or "pre"
  local function normed(list) return each(list, function(row) return self:norm(norm, row) end) end
  local added = f(self:shift(residual == "pre" and normed(rows) or rows))
  local a = residual == "rezero" and self.t[scale][1] or 1
  local sums = each(rows, function(row, t)
    return each(row, function(x, i) return x + a * added[t][i] end)
  end)
  return residual == "post" and normed(sums) or sums
end

function Plain:block(name, rows)
  rows = self:add(rows, name .. ".norm1", name .. ".attention_scale", function(list)
    return self:attention(name .. ".attention", list)
  end)
  return self:add(rows, name .. ".norm2", name .. ".mlp_scale", function(list)
    return each(list, function(row) return self:mlp(name .. ".mlp", row) end)
  end)
end

--- What is added at a position, from 0; nil: nothing.
function Plain:position(at, width)
  local kind = self.o.positions or "rotary"
  if kind == "learned" then return self.t["positions.weight"][at + 1] end
  if kind == "sinusoidal" then
    local row = {}
    for c = 0, width - 1 do
      local angle = at * 10000 ^ -(c // 2 * 2 / width)
      row[c + 1] = math.sqrt(2 / width) * (c % 2 == 0 and math.sin(angle) or math.cos(angle))
    end
    return row
  end
  if not kind:find "axial" then return nil end
  local axes, row, share = self.o.axes, {}, width // #self.o.axes // 2 * 2
  for i = 1, width do row[i] = 0 end
  for i = #axes, 1, -1 do
    local place = at % axes[i]
    at = at // axes[i]
    if kind == "axial" then row = sum_of(row, self.t["positions.axis" .. i][place + 1]) end
    for c = 0, kind == "axial" and -1 or share - 1 do
      local angle = place * 10000 ^ -(c // 2 * 2 / share)
      row[(i - 1) * share + c + 1] = math.sqrt(2 / width)
        * (c % 2 == 0 and math.sin(angle) or math.cos(angle))
    end
  end
  return row
end

function Plain:embed(ids)
  return each(ids, function(id, t)
    local row = self.t["embedding.weight"][id + 1]
    local position = self:position(t - 1, #row)
    if position then row = sum_of(row, position) end
    if self.o.embedding_norm then row = self:norm("embedding_norm", row) end
    if self.t["widen.weight"] then row = self:linear("widen", row) end
    return row
  end)
end

function Plain:logits(row)
  local table_ = self.t["head.weight"] or self.t["embedding.weight"]
  if self.t["norm.weight"] then row = self:norm("norm", row) end
  if self.t["transform.weight"] then
    row = each(self:linear("transform", row), acts[self.o.head_act or "gelu"])
    row = self:norm("transform_norm", row)
  elseif self.t["narrow.weight"] then
    row = self:linear("narrow", row)
  end
  return self:linear("", row, table_, self.t["head_bias"] or self.t["head.bias"] or false)
end

--- Logits of the tokens `ids` (a list), a list a token, of a model nn.performer(options) with
--- attention = "exact".
function plain_model.logits(model, options, ids)
  local self = setmetatable({ o = options, t = {} }, Plain)
  for name, tensor in pairs(model:tensors()) do self.t[name] = tensor:totable() end
  local rows = self:embed(ids)
  for i = 1, options.layers do
    rows = self:block("blocks." .. (options.shared and 1 or i), rows)
  end
  return each(rows, function(row) return self:logits(row) end)
end

return plain_model
