--- performer inspect - what a checkpoint or a safetensors file holds, without loading it.
local pf = require "performer"
local cli = require "kit.cli"

local ROWS = { { "json", "flag", nil, "one JSON object on stdout" } }

local function size(bytes)
  local units = { "B", "KiB", "MiB", "GiB", "TiB" }
  local i = 1
  while bytes >= 1024 and i < #units do bytes, i = bytes / 1024, i + 1 end
  return (i == 1 and "%d %s" or "%.1f %s"):format(bytes, units[i])
end

local function line(format, ...) cli.write(cli.plain(format:format(...)), "\n") end

--- A checkpoint's own words: step, tokenizer, model.
local function show_checkpoint(info)
  local state = info.state and info.state.state or {}
  line("checkpoint %s%s", info.checkpoint, state.step and (", step %d"):format(state.step) or "")
  local tokenizer = type(info.tokenizer) == "table" and info.tokenizer.type or info.tokenizer
  if tokenizer then line("tokenizer  %s", tostring(tokenizer)) end
  if type(info.config) == "table" then line("model      %s", pf.json.encode(info.config)) end
end

--- Numbers of the parameters that a checkpoint's model holds still, and of its adapters.
local function trained_of(info)
  local config = type(info.config) == "table" and info.config or {}
  if not config.frozen and not config.adapters then return nil end
  local still, frozen, adapters = {}, 0, 0
  for _, name in ipairs(config.frozen or {}) do still[name] = true end
  for _, tensor in ipairs(info.tensors) do
    local n = 1
    for _, rows in ipairs(tensor.shape) do n = n * rows end
    if still[tensor.name] then frozen = frozen + n end
    if tensor.name:find "%f[%w]adapter%.[ab]$" then adapters = adapters + n end
  end
  return { frozen = frozen, adapters = adapters }
end

local function show(info)
  if info.checkpoint then show_checkpoint(info) end
  for _, tensor in ipairs(info.tensors) do
    line("%-44s %-4s %-18s %s", tensor.name, tensor.dtype,
      "[" .. table.concat(tensor.shape, ", ") .. "]", size(tensor.bytes))
  end
  line("%d tensors, %d parameters, %s", #info.tensors, info.params, size(info.bytes))
  if info.trainable then
    line("frozen: %d of them; adapters: %d", info.trainable.frozen, info.trainable.adapters)
  end
  for key, value in pf.sorted(info.metadata or {}) do line("%s: %s", key, tostring(value)) end
end

local function main()
  local parser = cli.parser("inspect", "Shows what a checkpoint or safetensors file holds.", {
    "performer inspect runs/proteins",
    "performer inspect model.safetensors --json",
  })
  parser:argument("path", "run folder, checkpoint folder or .safetensors file")
  local options = cli.parse(cli.add(parser, ROWS), ROWS, arg)
  local info = cli.need(pf.inspect(options.path))
  info.trainable = trained_of(info)
  pf.json.list(info.tensors)
  for _, tensor in ipairs(info.tensors) do pf.json.list(tensor.shape) end
  if options.json then return cli.print_json(info) end
  show(info)
end

cli.main(main)
