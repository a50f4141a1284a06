--- ranks.lua - the ranks of a command that mpirun or Slurm has started several times over
-- (pf.ranks): opened once, and asked by whatever only one of them is to do. Without a launcher all
-- of this is of one rank, and costs nothing.
--
-- What must hold: every rank comes to each verb. What only rank 0 does (the run's folder, its log,
-- what is said) has no verb in it.
local pf = require "performer"

local ranks = {}

local launched, place = pf.ranks.launched()
local here -- what pf.ranks.open gave

--- How many there are: as they have opened, or as a launcher says before.
function ranks.size() return here and here.size or math.max(launched, 1) end

--- Is this the one that writes and speaks?
function ranks.first() return (here and here.rank or place) == 0 end

--- Several?
function ranks.several() return ranks.size() > 1 end

--- The open ones, or nil.
function ranks.here() return here end

-- ---- threads ------------------------------------------------------------------------

--- How many cpus a list such as "0-3,8" has; nil: none is told there.
local function cpus_of(path, pattern)
  local file = io.open(path)
  local list = file and file:read "a":match(pattern)
  if file then file:close() end
  local n = 0
  for first, last in (list or ""):gmatch "(%d+)%-?(%d*)" do
    n = n + 1 + (tonumber(last) or first) - first
  end
  return n > 0 and math.tointeger(n) or nil
end

--- How many threads each of the ranks on this machine has by itself: all cpus that it is bound to,
-- or its share of the machine's; nil: the engine's own choice.
function ranks.threads()
  if not ranks.several() then return nil end
  local beside = tonumber(os.getenv "OMPI_COMM_WORLD_LOCAL_SIZE" or os.getenv "MPI_LOCALNRANKS")
  local all = cpus_of("/sys/devices/system/cpu/online", "[%d,-]+")
  local own = cpus_of("/proc/self/status", "Cpus_allowed_list:%s*([%d,-]+)")
  if not beside or not all or not own or own < all then return nil end
  return math.max(1, all // math.tointeger(beside))
end

-- ---- opening ------------------------------------------------------------------------

--- A command's option. Of a command's rows those with `own` may be told each rank in its own way.
ranks.TIMEOUT = { "timeout", "number", nil, "of several ranks (mpirun, srun): seconds that one is "
  .. "waited for, before all end with code 75", 60 }

local function refuse(message) error({ code = 2, message = message }, 0) end

-- Larger files that an option names are not compared.
local LARGEST <const> = 1 << 20

--- The text of a small file, such as a model's script, or "".
local function text_of(path)
  local file = io.open(path, "rb")
  local size = file and file:seek "end" or LARGEST + 1 -- of a pipe there is none
  local text = file and size <= LARGEST and file:seek "set" and file:read "a"
  if file then file:close() end
  return text or ""
end

--- What each option was given as, by its name, and the texts of files that are named.
local function said_of(rows, given)
  local said = { options = {}, files = {} }
  for _, row in ipairs(rows) do
    local value = given[(row[1]:gsub("-", "_"))]
    if value ~= nil and not row.own then
      said.options[row[1]] = type(value) == "table" and table.concat(value, " ") or tostring(value)
      if row[2] == "file" then said.files[row[1]] = text_of(value) end
    end
  end
  return said
end

--- "--lr 0.1", or that there is none.
local function option(name, value)
  if value == nil then return "no --" .. name end
  if value == "true" then return "--" .. name end
  return ("--%s %s"):format(name, value == "false" and "off" or value)
end

--- Ranks that are told different things would make different models of one run, and say nothing.
local function check_same(command, rows, given)
  local all = here:collect(said_of(rows, given))
  local first = all[1]
  for rank = 1, #all - 1 do
    local who = ("%s: rank %d on %s"):format(command, rank, here:host(rank))
    for _, row in ipairs(rows) do
      local name = row[1]
      local ours, theirs = first.options[name], all[rank + 1].options[name]
      if ours ~= theirs then
        refuse(("%s was given %s, and rank 0 %s: all ranks run the same command"):format(who,
          option(name, theirs), option(name, ours)))
      elseif first.files[name] ~= all[rank + 1].files[name] then
        refuse(("%s has another file %s (--%s) than rank 0: put the same one on every host")
          :format(who, ours, name))
      end
    end
  end
end

--- Opens them, or ends the command, whose rows these are, and what was given of them.
function ranks.need(command, rows, options, given)
  if options.timeout and options.timeout <= 0 then
    refuse "--timeout must be more than 0 seconds"
  end
  local message
  if not here then here, message = pf.ranks.open { timeout = options.timeout } end
  if not here then refuse(message) end
  if ranks.several() then check_same(command, rows, given) end
end

--- In words: "4 on 2 hosts, Open MPI 4.1.4".
function ranks.describe()
  local hosts, n = {}, 0
  for _, host in ipairs(here.hosts) do
    if not hosts[host] then hosts[host], n = true, n + 1 end
  end
  return ("%d on %d host%s, %s"):format(here.size, n, n == 1 and "" or "s", here.transport)
end

-- ---- verbs, of one rank where there is one ------------------------------------------

--- f(...) on rank 0 alone, whose plain result all have. f gives one value, or nil and a message.
function ranks.once(f, ...)
  if not ranks.several() then return f(...) end
  local own
  if here:first() then own = table.pack(f(...)) end
  local shared = here:share(own and { value = own[1], message = own[2] } or {})
  return shared.value, shared.message
end

--- true where any says true; of several flags, each.
function ranks.any(...)
  if not ranks.several() then return ... end
  return here:any(...)
end

--- Sums of numbers, in the order of the ranks.
function ranks.sum(...)
  if not ranks.several() then return ... end
  return here:sum(...)
end

--- The numbers of all lists of the ranks, one list behind the other, added in this order.
function ranks.total(list)
  local sum = 0
  if not ranks.several() then
    for _, number in ipairs(list) do sum = sum + number end
    return sum
  end
  local own = {}
  for i, number in ipairs(list) do own[i] = ("<d"):pack(number) end
  for _, text in ipairs(here:collect_bytes(table.concat(own))) do
    for at = 1, #text, 8 do sum = sum + ("<d"):unpack(text, at) end
  end
  return sum
end

--- A list of what each has.
function ranks.collect(value)
  if not ranks.several() then return { value } end
  return here:collect(value)
end

--- for lane in ranks.lanes(n) do: this rank's, from 1.
function ranks.lanes(n)
  if here then return here:lanes(n) end
  local lane = 0
  return function()
    lane = lane + 1
    return lane <= n and lane or nil
  end
end

--- Rows in segments are shared by n ranks each.
function ranks.share_rows(n)
  if ranks.several() then here:row_ranks(n) end
end

--- How many share a row, and is this the first of those that do?
function ranks.row() return here and here.row or 1 end
function ranks.first_of_row() return not here or here.rank % ranks.row() == 0 end

--- Is the i-th of something this rank's?
function ranks.has(i) return not ranks.several() or (i - 1) % here.size == here.rank end

--- A list of n lists of `width` numbers, of which each rank has made those that are its own.
function ranks.gather(own, n, width)
  if not ranks.several() then return own end
  local format, parts, list = "<" .. ("d"):rep(width), {}, {}
  for i = 1, n do
    if ranks.has(i) then parts[#parts + 1] = format:pack(table.unpack(own[i], 1, width)) end
  end
  for r, text in ipairs(here:collect_bytes(table.concat(parts))) do
    local at = 1
    for i = r, n, here.size do
      list[i] = { format:unpack(text, at) }
      at = table.remove(list[i])
    end
  end
  return list
end

-- ---- the end ------------------------------------------------------------------------

--- All ranks come here when a command is done: only then may one of them end.
function ranks.close()
  if here then here:close() end
  here = nil
end

--- What the other ranks hear of a problem, which may say nothing here, as pf.exit does.
local function told(problem)
  local message = tostring(problem.message or "")
  return message ~= "" and message or ("left, with exit code %s"):format(problem.code or 1)
end

-- Where ranks have not opened, mpirun ends all when the first ends: what is wrong for all is rank
-- 0's to say, and what is wrong here alone can only be said by who has outlived that.
local TO_FIRST <const> = "sleep 3"

--- What this rank, which is not the first, has to say when it fails before the ranks are open.
local function fault_of_one(problem)
  local message = problem.message or ""
  if message == "" or problem.code == 130 or not os.execute(TO_FIRST) then return "" end
  local file = io.open "/proc/sys/kernel/hostname"
  local host = file and file:read "l"
  if file then file:close() end
  return ("rank %d of %d on %s: %s"):format(place, launched, host or "its host", message)
end

--- Of a talk that is lost rank 0 says what it knows, with which mpirun ends the others; another
-- rank speaks when that does not come.
function ranks.let_first_speak()
  if place ~= 0 then os.execute(TO_FIRST) end
end

--- A command has failed here with `problem` { code, message }: the others hear of it at their next
-- verb. What is to be said and done: { code, message }, where an empty message is for others to
-- say; lost: the ranks can't end together.
function ranks.fail(problem)
  if not ranks.several() then return problem end
  if not here then
    if place == 0 then return problem end
    return { code = problem.code, message = fault_of_one(problem) }
  end
  local known = here:settle(told(problem))
  if known then -- rank 0's message is its own, or that of the rank that failed
    if here:first() and (problem.message or "") ~= "" then
      io.stderr:write("performer: ", pf.term.plain(problem.message, true), "\n")
    end
    here:close() -- nobody ends before it is said
    return { code = problem.code, message = "" }
  end
  local silent = problem.code == 130 and place ~= 0 -- whoever was stopped knows it
  return { code = here:lost() and 75 or problem.code, message = silent and "" or problem.message,
           lost = here:lost() }
end

return ranks
