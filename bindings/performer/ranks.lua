-- performer/ranks.lua: ranks that train one model together, one process each, on one machine or
-- many. mpirun or Slurm starts them; with one rank all of this does nothing and costs nothing, so
-- that one script is both:
--
--   local ranks <close> = assert(pf.ranks.open())
--   optimizer:set_lanes(8)                 -- parts of a step: the same bits on 1 to 8 ranks
--   for lane in ranks:lanes(8) do          -- this rank's
--     local batch = data:batch { index = (step - 1) * 8 + lane, size = rows // 8 }
--     ... forward, backward with the share that the batch has of the step's tokens ...
--     optimizer:fold()
--   end
--   optimizer:step()
--
-- What must hold: every rank calls the same verbs in the same order. A failure in a verb is raised
-- on all, also one in what a single rank gives it (refuse); one of a rank alone too, at the next
-- verb, where its scope tells it (<close>, or settle).
-- A rank that does not answer within the timeout ends the talk for good.
local core = require "performer.core"
local plain = require "performer.plain"
local util = require "performer.util"

local Ranks = {}
Ranks.__index = Ranks

-- ---- what they are ------------------------------------------------------------------

--- How many a launcher has started (0: none has), and which of them this one is, from 0: known
--- before they are opened.
local function launched() return core.comm_launched() end

-- What begins MPI waits for all ranks, and for one that has ended before for ever. No thread of
-- ours may call MPI beside it; so where the program is ours it ends when they should have come.
local TIMEOUT <const>, LEAST <const>, LOST <const> = 60, 10, 75

--- f(...), whose process ends with 75 when it is not back in so many seconds.
local function in_time(seconds, f, ...)
  local ours, leave = pcall(require, "performer.leave")
  local size, rank = launched()
  if not ours or size < 2 then return f(...) end
  seconds = math.max(seconds, LEAST)
  leave(LOST, seconds, ("ranks: rank %d of %d waits for the others to begin MPI, and not all "
    .. "have come in %.3g s: one may have ended before, or can't be reached"):format(rank, size,
    seconds))
  local results = table.pack(f(...))
  leave(0)
  return table.unpack(results, 1, results.n)
end

--- The ranks that a launcher has started, or one: { rank (from 0), size, local_rank, local_size
--- (those on this machine), transport, hosts }. Options: timeout (60: seconds that a rank is waited
--- for), file (the plugin; by itself MPI's). nil, message, code where the plugin is missing or sees
--- others than the launcher. Once a program.
local function open(options)
  options = util.check_options(options, { "timeout", "file" }, "ranks.open")
  if options.timeout ~= nil and type(options.timeout) ~= "number" then
    util.fail("ranks.open: timeout must be a number of seconds, got %s", core.kind(options.timeout))
  end
  local ok, message, code = in_time(options.timeout or TIMEOUT, core.comm_launch, options)
  if not ok then return nil, message, code end
  local ranks = core.comm_about()
  ranks.waited, ranks.lost = nil, nil -- they change: methods tell
  ranks.row = nil -- until row_ranks says it, lanes are of ranks
  return setmetatable(ranks, Ranks)
end

--- Of what is wrong with what this rank gives a verb, which begins with a vote, the others hear at
-- that: they would wait for it else, or take its next verb for this one.
local function refuse(self, format, ...)
  local message, told = format:format(...), nil
  if self.size > 1 then told = select(2, self:settle(message)) end
  util.fail("%s", told or message)
end

local function check_rank(self, verb, rank)
  if math.type(rank) == "integer" and rank >= 0 and rank < self.size then return rank end
  refuse(self, "ranks:%s: there is no rank %s among %d", verb, tostring(rank), self.size)
end

local function check_type(self, verb, value, kind)
  if type(value) == kind then return value end
  refuse(self, "ranks:%s: %s are needed, got %s", verb, kind == "string" and "texts" or "numbers",
    core.kind(value))
end

local function pack_plain(self, value)
  local fine, text = pcall(plain.pack, value)
  return fine and text or refuse(self, "%s", text)
end

--- Is this rank 0, which writes and speaks for all?
function Ranks:first() return self.rank == 0 end

--- Seconds that this rank has waited for others so far.
function Ranks:waited() return core.comm_about().waited end -- luacheck: ignore 212

--- Has the talk ended for good, since a rank was lost or did another thing than the others?
function Ranks:lost() return core.comm_about().lost end -- luacheck: ignore 212

--- Which host a rank is on.
function Ranks:host(rank) return self.hosts[(rank or self.rank) + 1] end

--- Another rank is about to work alone, at a large file: from here on a wait lasts so many seconds
--- at least; 0: as long as timeout said.
function Ranks:patience(seconds) -- luacheck: ignore 212
  if type(seconds) ~= "number" or seconds ~= seconds or seconds < 0 then
    util.fail("ranks:patience: seconds must be a number from 0 on, got %s", core.kind(seconds))
  end
  core.comm_patience(seconds)
end

--- What messages call the time: the step that is under way.
function Ranks:at(step) core.comm_at(step) end -- luacheck: ignore 212

--- Rows in segments (optimizer:backward_segments) are shared by n ranks each, side by side, and
--- lanes are of such a group of ranks: ranks 0 to n - 1 have the first ones together. n divides the
--- ranks; until this is called all share each row.
function Ranks:row_ranks(n)
  if not math.tointeger(n) then
    refuse(self, "ranks:row_ranks: the number of ranks must be a whole one, got %s", tostring(n))
  end
  core.comm_row_ranks(n)
  self.row = n
end

--- for lane, last in ranks:lanes(n) do: those of n lanes, from 1, that are this rank's, or its
--- group's where ranks:row_ranks has said how many share a row, as many on each as can be; and
--- whether it is the last one.
function Ranks:lanes(n)
  local groups, group = self.size // (self.row or 1), self.rank // (self.row or 1)
  if math.type(n) ~= "integer" or n < groups then
    util.fail("ranks:lanes: %s lanes for %d %s: there must be at least one for each", tostring(n),
      groups, self.row and "groups of ranks" or groups == 1 and "rank" or "ranks")
  end
  local lane, last = group * n // groups, (group + 1) * n // groups
  return function()
    if lane == last then return nil end
    lane = lane + 1
    return lane, lane == last
  end
end

-- ---- verbs --------------------------------------------------------------------------

--- Waits until all ranks are here.
function Ranks:wait() core.comm_agree() end -- luacheck: ignore 212

--- true where any rank says true; of several flags (63 at most), each.
function Ranks:any(...) -- luacheck: ignore 212
  local flags, n = 0, select("#", ...)
  for i = 1, n do flags = flags | (select(i, ...) and 1 << (i - 1) or 0) end
  flags = core.comm_agree(flags)
  local each = {}
  for i = 1, n do each[i] = flags >> (i - 1) & 1 == 1 end
  return table.unpack(each, 1, n)
end

--- Which rank has the largest number (of several the first), and the number.
function Ranks:most(number)
  local words = { core.comm_agree(0, 0, 0, 0, 0, check_type(self, "most", number, "number")) }
  return words[7], words[6]
end

--- A list of the texts (bytes) that the ranks have, in order.
function Ranks:collect_bytes(text)
  return core.comm_collect(check_type(self, "collect_bytes", text, "string"))
end

--- A list of what every rank has, in order: plain data (numbers, texts, booleans, tables of these).
function Ranks:collect(value)
  if self.size == 1 then return { value } end
  local list = self:collect_bytes(pack_plain(self, value))
  for i, text in ipairs(list) do list[i] = plain.unpack(text) end
  return list
end

local function are_whole(numbers)
  for i = 1, numbers.n do
    if math.type(numbers[i]) ~= "integer" then return false end
  end
  return true
end

--- Numbers as bytes: which of them are whole, and all.
local function pack(numbers)
  local format = {}
  for i = 1, numbers.n do format[i] = math.type(numbers[i]) == "integer" and "j" or "d" end
  format = table.concat(format)
  return ("<s1"):pack(format) .. ("<" .. format):pack(table.unpack(numbers, 1, numbers.n))
end

local function unpack_numbers(text)
  local format, at = ("<s1"):unpack(text)
  local numbers = { ("<" .. format):unpack(text, at) }
  numbers[#numbers] = nil -- where it ends
  return numbers
end

--- Rank by rank.
local function sum_collected(self, own)
  local sums
  for rank, text in ipairs(self:collect_bytes(pack(own))) do
    local more = unpack_numbers(text)
    if #more ~= #(sums or more) then
      util.fail("ranks:sum: rank %d has %d numbers, and rank 0 %d", rank - 1, #more, #sums)
    end
    for i = 1, sums and #sums or 0 do sums[i] = sums[i] + more[i] end
    sums = sums or more
  end
  return table.unpack(sums)
end

--- A sum over all ranks: whole numbers exactly, others in the order of the ranks. Several numbers
--- (255 at most) give several sums. A number may be whole on one rank alone: how they are added is
--- agreed upon first.
function Ranks:sum(...)
  local own = table.pack(...)
  for i = 1, own.n do check_type(self, "sum", own[i], "number") end
  if self.size == 1 then return ... end
  local whole = own.n <= 4 and are_whole(own)
  local words = whole and { core.comm_agree(0, table.unpack(own, 1, own.n)) }
    or { core.comm_agree(1) }
  if words[1] == 0 then return table.unpack(words, 2, own.n + 1) end
  return sum_collected(self, own)
end

--- What rank `from` (0) has: plain data, which is returned, whatever the others give; of a tensor,
--- or of a model's tensors, that all have, the numbers, in place.
function Ranks:share(value, from)
  from = check_rank(self, "share", from or 0)
  local kind = core.kind(value)
  if kind == "module" then
    for _, tensor in util.sorted(value:tensors()) do core.comm_share_tensor(from, tensor) end
    return value
  end
  if kind == "tensor" then
    core.comm_share_tensor(from, value)
    return value
  end
  if self.size == 1 then return value end
  local text -- of the others nothing is asked, lest they say it in another way
  if self.rank == from then text = pack_plain(self, value) end
  return (plain.unpack(core.comm_share(from, text)))
end

--- The bytes that rank `from` (0) has, whatever this one gives.
function Ranks:share_bytes(bytes, from)
  from = check_rank(self, "share_bytes", from or 0)
  if self.size == 1 then return bytes end
  local own = self.rank == from and check_type(self, "share_bytes", bytes, "string") or nil
  return core.comm_share(from, own)
end

--- The file `path` of rank `from` (0) becomes the file `to` of all others, piece by piece; `to` is
--- written whole, and may be one in memory.
function Ranks:share_file(path, to, from)
  from = check_rank(self, "share_file", from or 0)
  if self.size > 1 then core.comm_share_file(from, path, to) end
end

--- Says that this rank has failed, at whatever verb the others are. Whether all know of a failure
--- now, so that the ranks can close, and its message.
function Ranks:settle(message) -- luacheck: ignore 212
  return core.comm_settle(message)
end

--- Ends every rank at once with an exit code; for who can't come to the others.
function Ranks:abort(code) core.comm_abort(code or 75) end -- luacheck: ignore 212

--- All ranks come here; a program's end does it by itself.
function Ranks:close() core.comm_close() end -- luacheck: ignore 212

--- The end of their scope (local ranks <close>): a failure is told to the others first.
function Ranks:__close(problem)
  if problem ~= nil then
    self:settle(type(problem) == "table" and problem.message or tostring(problem))
  end
  self:close()
end

return { open = open, launched = launched }
