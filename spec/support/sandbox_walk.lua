-- sandbox_walk.lua: calls everything that the library has with paths into a folder, and prints all
-- that comes back. In a sandbox nothing of the folder may be in it, and nothing of it may change;
-- outside it does. arguments: the folder, and CLASS.METHOD of every method that there is.
local pf = require "performer"
local folder = ...

local model = pf.nn.performer { vocab = 256, dim = 8, layers = 1, heads = 2, causal = true,
                                kernel = { features = 8 } }
local kernel = pf.kernel.relu {}
local objects = { tensor = pf.ones(2), module = model, kernel = kernel,
  optimizer = pf.optim.sgd(model, { lr = 1 }), stream = model:stream { batch = 1 },
  state = pf.attention.state { kernel = kernel, batch = 1, heads = 1, head_dim = 4,
                               value_dim = 4 } }

local paths = { folder .. "/text.txt", folder .. "/weights.safetensors", folder .. "/run",
                folder .. "/config.json", folder .. "/new", "memory:new" }

--- What a function that takes a path may be given.
local function shapes(path)
  return { { path }, { { path = path } }, { { path = path, length = 4 } }, { { path } },
    { path, { a = pf.ones(2) } }, { path, { model = model } }, { model, path }, { model, { path } },
    { { path = path, out = folder .. "/shards", format = "text" } }, { path, "BEST" },
    { { from = path, to = path } }, { kernel, path }, { path, 4 }, { nil, path } }
end

local function tell(value, depth)
  if type(value) ~= "table" then return tostring(value) end
  local words = {}
  for key, inner in next, value do
    words[#words + 1] = tostring(key) .. "=" .. (depth > 0 and tell(inner, depth - 1) or "")
  end
  return table.concat(words, " ")
end

local function try(name, f, ...)
  local results = table.pack(pcall(f, ...))
  for i = 2, results.n do print(name, tell(results[i], 2)) end
end

local calls = 0
local function all_shapes(name, f, object)
  for _, path in ipairs(paths) do
    for _, shape in ipairs(shapes(path)) do
      calls = calls + 1
      if object then
        try(name, f, object, table.unpack(shape, 1, 3))
      else
        try(name, f, table.unpack(shape, 1, 3))
      end
    end
  end
end

local SKIPPED = { ["pf.exit"] = true, ["pf.bench_gemm"] = true, ["pf.open"] = true }
local seen = {}
local function walk(t, name)
  if seen[t] then return end
  seen[t] = true
  for key, value in pf.sorted(t) do
    local inner = name .. "." .. tostring(key)
    if type(value) == "function" and not SKIPPED[inner] then all_shapes(inner, value) end
    if type(value) == "table" and type(key) == "string" then walk(value, inner) end
  end
end

walk(pf, "pf")
for _, word in ipairs { select(2, ...) } do
  local class, method = word:match "^(%w+)%.([%w_]+)$"
  local object = objects[class]
  local found, f = pcall(function() return object[method] end)
  if object and found and f and method ~= "close" then all_shapes(word, f, object) end
end
print("calls", calls)
