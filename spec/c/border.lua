-- border.lua - reads the public headers and writes border_calls.h, of which the tests of the border
-- are made (null_test.c, size_test.c, closed_test.c): every function as a row that can be called
-- with arguments that would do, any of them NULL, and every struct that begins with its size.
--
--   performer border.lua OUT HEADER ...
--
-- A new function or struct is tested without an edit here. A type that has no argument to stand for
-- it yet is an #error in what is written: it needs a line in `by_type`, or `by_name`, below.
local OUT = arg[1]

-- Expressions of border.h, by "function.parameter", by "type parameter", and by type.
local by_name = {
  ["pf_engine_open_abi.abi"] = "PF_ABI_VERSION",
  ["pf_comm_open.transport"] = "NULL", -- the tests of ranks open some
  ["pf_comm_share.root"] = "0",
  ["pf_module_new.type"] = [["chain"]],
  ["pf_module_build.tree"] = "B.tree",
  ["pf_optimizer_new.options"] = "B.none",
  ["pf_data_open.options"] = "B.data_options",
  ["pf_data_shard.options"] = "B.data_options",
  ["pf_kernel_open_host.name"] = [["mine"]],
  ["pf_module_freeze.pattern"] = [["*"]],
  ["pf_module_adapt.pattern"] = [["*"]],
  ["pf_attention_flops.attention"] = [["favor"]],
  ["pf_tensor_read.bytes"] = "B.bytes",
  ["pf_tensor_write.bytes"] = "B.bytes",
  ["pf_tensor_from_bytes.type"] = [["f32"]],
  ["pf_tensor_to_bytes.type"] = [["f32"]],
  ["pf_tensor_to_bytes.size"] = "B.bytes",
  ["pf_tensor_set_masked.mask"] = "B.ids",
  ["pf_npy_save.type"] = [["f32"]],
  ["pf_npz_save.type"] = [["f32"]],
  ["pf_items_add.keys"] = "B.rows",
  ["pf_items_remove.keys"] = "B.rows",
  ["pf_items_add.values"] = "NULL",
  ["pf_items_remove.values"] = "NULL",
  ["pf_module_prefill.x"] = "B.ids",
  ["pf_module_forward.x"] = "B.ids",
  ["pf_module_step.x"] = "B.id",
  ["pf_attention_step.state"] = "B.alone",
  ["pf_attention_prefill.state"] = "B.alone",
  ["pf_attention_state_info.state"] = "B.alone",
  ["pf_attention_state_check.state"] = "B.alone",
  ["pf_state_merge.state"] = "B.alone",
  ["pf_state_merge.later"] = "B.alone",
  ["pf_state_pack.state"] = "B.alone",
  ["pf_state_save.state"] = "B.alone",
  ["pf_meter_resize.block"] = "NULL",
  ["pf_script_read.index"] = "-1",
  ["pf_file_write.path"] = [["memory:file"]],
  ["pf_model_save.dir"] = [["memory:shipped"]],
  ["pf_file_remove.path"] = [["memory:file"]],
  ["pf_memory_lend.path"] = [["memory:file"]],
  ["pf_memory_get.path"] = [["memory:file"]],
}
local by_type = {
  ["bool"] = "false", ["int"] = "1", ["unsigned"] = "0", ["int32_t"] = "1", ["int64_t"] = "1",
  ["uint32_t"] = "1", ["uint64_t"] = "1", ["size_t"] = "1", ["double"] = "1",
  ["pf_dtype"] = "PF_F32", ["pf_side"] = "PF_SIDE_KEY", ["pf_split"] = "PF_ALL",
  ["pf_config_kind"] = "PF_MAP", ["bool *"] = "&B.flag", ["int *"] = "&B.whole",
  ["int32_t *"] = "(void *)B.out", ["double *"] = "B.out", ["int64_t *"] = "(void *)B.out",
  ["size_t *"] = "(void *)B.out", ["char *"] = "(void *)B.out", ["void *"] = "B.out",
  ["const void *"] = "B.zeros", ["const int32_t *"] = "(void *)B.zeros",
  ["const int64_t *"] = "B.zeros", ["const uint8_t *"] = "(void *)B.zeros",
  ["void *lua_state"] = "B.lua", ["const char *"] = [["byte"]], ["const char *path"] = "B.path",
  ["const char *dir"] = "B.path", ["const char **"] = "&B.text",
  ["const char *const *"] = "B.words", ["pf_engine *"] = "B.engine",
  ["pf_tensor *"] = "B.tensor", ["pf_tape *"] = "B.tape", ["pf_module *"] = "B.module",
  ["pf_state *"] = "B.state", ["pf_stream *"] = "B.stream",
  ["pf_serving *"] = "B.serving", ["pf_optimizer *"] = "B.optimizer",
  ["pf_data *"] = "B.data", ["pf_kernel *"] = "B.kernel", ["pf_items *"] = "B.items",
  ["pf_meter *"] = "B.meter", ["pf_memory_files *"] = "B.memory_files",
  ["pf_random *"] = "B.random",
  ["pf_config *"] = "B.map", ["pf_config *list"] = "B.list", ["pf_config *options"] = "B.none",
  ["pf_config *child"] = "NULL", ["pf_config *table"] = "NULL", ["pf_named *"] = "B.named",
  ["pf_attr *"] = "NULL", ["pf_attr *attrs"] = "B.attrs", ["pf_tensor *const *"] = "B.tensors",
  ["pf_module *const *"] = "B.modules", ["pf_tensor **outputs"] = "B.outputs",
  ["pf_tensor *[3]"] = "B.outputs", ["pf_layer_resolver"] = "border_resolve",
  ["pf_release_fn"] = "border_release",
  ["pf_script *"] = "B.script", ["pf_script_fn"] = "border_script", ["pf_value *"] = "B.values",
  ["(*) f"] = "border_function", ["const void **"] = "(void *)B.out",
  ["pf_entry_fn"] = "border_entry",
}

local function read(path)
  local file = assert(io.open(path))
  local text = file:read "a"
  file:close()
  return (text:gsub("/%*.-%*/", " "):gsub("%s+", " "))
end

-- ---- what the headers say -----------------------------------------------------------

--- Parts of a parameter list, cut at commas outside brackets.
local function split(text)
  local list, depth, start = {}, 0, 1
  for i = 1, #text + 1 do
    local c = text:sub(i, i)
    if c == "(" then depth = depth + 1 elseif c == ")" then depth = depth - 1 end
    if depth == 0 and (c == "," or c == "") then
      list[#list + 1] = text:sub(start, i - 1):match "^%s*(.-)%s*$"
      start = i + 1
    end
  end
  return list
end

--- {type, name, nullable, pointer} of one parameter.
local function parameter(text)
  local nullable = text:find "PF_NULLABLE" ~= nil
  text = text:gsub("PF_NULLABLE ", "")
  local callback = text:match "%(%*(%w+)%)"
  if callback then return { type = "(*)", name = callback, pointer = true, nullable = nullable } end
  local kind, name, array = text:match "^(.-)([%w_]+)(%[?%d*%]?)$"
  kind = kind:match "^%s*(.-)%s*$" .. array
  local pointer = kind:find "%*" ~= nil or kind:find "^pf_%w+_fn$" or kind == "pf_layer_resolver"
  return { type = kind, name = name, pointer = pointer, nullable = nullable }
end

local functions, sized = {}, {}
for i = 2, #arg do
  local text = read(arg[i])
  for result, name, list in text:gmatch "PF_API ([%w_ *]-)(pf_[%w_]+)(%b());" do
    local f = { name = name, result = result:match "^%s*(.-)%s*$", header = arg[i] }
    for _, part in ipairs(split(list:sub(2, -2))) do
      if part ~= "void" then f[#f + 1] = parameter(part) end
    end
    functions[#functions + 1] = f
  end
  text = text:gsub("struct (pf_[%w_]+) (%b{});", "typedef struct %2 %1;") -- declared before
  for body, name in text:gmatch "typedef struct (%b{}) (pf_[%w_]+);" do
    if body:find "^{ size_t size;" then sized[#sized + 1], sized[name] = name, true end
  end
end

-- ---- arguments that would do --------------------------------------------------------

--- The struct that a parameter points to, if it begins with its size.
local function sized_struct(p)
  local name = p.type:match "^const ([%w_]+) %*$" or p.type:match "^([%w_]+) %*$"
  return sized[name] and name
end

--- A place for one result, with something in it that a failure has to clear.
local function place(f, i)
  local p = f[i]
  if not p.type:find "^[%w_]+ %*%*$" or by_type[p.type .. p.name] then return nil end
  local first = i == 1 and f.result == "int"
  return ("(void *)&B.places[%d]"):format(first and 0 or i), first
end

local function argument(f, i)
  local p = f[i]
  local struct, plain = sized_struct(p), p.type:gsub("^const ", "")
  return by_name[f.name .. "." .. p.name] or by_type[p.type .. p.name] or by_type[plain .. p.name]
    or by_type[p.type .. " " .. p.name]
    or struct and ("(void *)border_struct(sizeof(%s))"):format(struct)
    or place(f, i) or by_type[p.type] or by_type[plain]
end

-- A status, but of one object alone: that is a number that it tells.
local function kind(f)
  if f.result == "void" then return "BORDER_NOTHING" end
  local object = #f == 1 and f[1].type:find "^const pf_"
  return f.result == "int" and not object and "BORDER_STATUS" or "BORDER_GETTER"
end

-- ---- what is written ----------------------------------------------------------------

local out = { "/* Made by spec/c/border.lua from the public headers. */" }
local function line(...) out[#out + 1] = (...):format(select(2, ...)) end

local function write_call(f)
  local list = {}
  line("static border_answer call_%s(int null) {", f.name)
  for i, p in ipairs(f) do
    local value = argument(f, i)
    if not value then
      line([[#error "%s: border.lua knows no argument for '%s %s'"]], f.name, p.type, p.name)
      value = "NULL"
    end
    list[i] = p.pointer and ("null == %d ? NULL : %s"):format(i - 1, value) or value
  end
  line("    (void)null;")
  local call = ("%s(%s)"):format(f.name, table.concat(list, ", "))
  if f.result == "void" then
    line("    %s;", call)
    line("    return (border_answer){.empty = true};")
  elseif kind(f) == "BORDER_STATUS" then
    line("    return (border_answer){.status = %s};", call)
  else
    line("    return (border_answer){.empty = %s == 0};", call)
  end
  line "}\n"
end

local function write_row(f)
  local cleared = false
  for i = 1, #f do cleared = cleared or select(2, place(f, i)) end
  line("    {\"%s\", %s, call_%s, %d, %s, {", f.name, kind(f), f.name, #f,
    tostring(cleared or false))
  if #f == 0 then line "        {0}," end
  for _, p in ipairs(f) do
    local struct = sized_struct(p)
    line("        {\"%s\", \"%s\", %s, %s, %s, %s},", p.name, p.type, tostring(p.pointer),
      tostring(p.nullable), struct and ("sizeof(%s)"):format(struct) or "0",
      tostring(p.type:find "^const" ~= nil))
  end
  line "    }},"
end

for _, f in ipairs(functions) do write_call(f) end
line "static const border_row border_rows[] = {"
for _, f in ipairs(functions) do write_row(f) end
line "};"

local file = assert(io.open(OUT, "w"))
file:write(table.concat(out, "\n"), "\n")
file:close()
