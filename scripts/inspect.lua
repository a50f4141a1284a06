--- performer inspect - what a checkpoint or a safetensors file holds, without loading it.
local pf = require "performer"
local cli = require "performer.cli"

local ROWS = { { "json", "flag", nil, "one JSON object on stdout" } }

local function size(bytes)
  local units = { "B", "KiB", "MiB", "GiB" }
  local i = 1
  while bytes >= 1024 and i < #units do bytes, i = bytes / 1024, i + 1 end
  return (i == 1 and "%d %s" or "%.1f %s"):format(bytes, units[i])
end

local function main()
  local parser = cli.parser("inspect", "Shows what a checkpoint or safetensors file holds.", {
    "performer inspect runs/proteins",
    "performer inspect model.safetensors --json",
  })
  parser:argument("path", "run folder, checkpoint folder or .safetensors file")
  local options = cli.parse(cli.add(parser, ROWS), ROWS, arg)
  local info = cli.need(pf.inspect(options.path))
  if options.json then
    print(pf.json.encode(info))
    return
  end
  for _, tensor in ipairs(info.tensors) do
    print(("%-44s %-4s %-18s %s"):format(tensor.name, tensor.dtype,
      "[" .. table.concat(tensor.shape, ", ") .. "]", size(tensor.bytes)))
  end
  print(("%d tensors, %d parameters, %s"):format(#info.tensors, info.params, size(info.bytes)))
  for key, value in pf.sorted(info.metadata or {}) do print(("%s: %s"):format(key, value)) end
end

main()
