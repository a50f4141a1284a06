--- log.lua - the log of a run, a line of JSON a record; the same as a table (log.csv) and, when
-- asked for, for TensorBoard; and the picture of its losses.
--
-- Every file is written as the run goes. When it goes on, each is made anew from the records up to
-- where it stands, so none has a step twice.
local curves = require "kit.curves"
local events = require "kit.events"
local log_fields = require "kit.log_fields"
local pf = require "performer"
local svg = require "kit.svg"
local whole_file = require "kit.whole_file"

local Log = {}
Log.__index = Log

Log.SMOOTH = 20 -- steps of the running mean: each new one counts a 20th

--- The log records up to `step`, and how many lines are no record: a killed run, or a full disk,
-- may leave half of one, and steps beyond the last checkpoint.
local function earlier(path, step)
  local records, broken = {}, 0
  local file = io.open(path, "rb")
  if not file then return records, broken end
  for line in file:lines() do
    local record = pf.json.decode(line)
    local good = type(record) == "table" and math.tointeger(record.step)
    if good and record.step <= step and not record.final then records[#records + 1] = record end
    if not good and #line > 0 then broken = broken + 1 end
  end
  file:close()
  return records, broken
end

--- What io says begins with a path, or does not.
local function cant_write(path, message)
  return ("can't write the log %s: %s"):format(path, message:match "[^:%s][^:]*$")
end

Log.EVENTS = "events.out.tfevents.performer" -- TensorBoard looks for `tfevents`

--- How a record stands in each of the files; `began`: when the run's time was 0, since 1970.
local function writers(tensorboard, began)
  local list = {
    { name = "log.jsonl", head = "",
      line = function(record) return pf.json.encode(record) .. "\n" end },
    { name = "log.csv", head = log_fields.csv_head(), -- of the last record log.jsonl has more
      line = function(record) return record.final and "" or log_fields.csv_line(record) end },
  }
  list[3] = tensorboard and {
    name = Log.EVENTS, head = events.head(began),
    line = function(record)
      return events.scalars(began + (record.seconds or 0), record.step, log_fields.scalars(record))
    end } or nil
  return list
end

--- Makes a file anew of the records that stand, and leaves it open for more; true, or nil, message.
local function begin(writer, dir, records)
  local path, parts = dir .. "/" .. writer.name, { writer.head }
  for _, record in ipairs(records) do parts[#parts + 1] = writer.line(record) end
  local ok, message = pf.file.write(path, table.concat(parts)) -- synced: a whole log is at stake
  if ok then writer.file, message = io.open(path, "a") end
  if not writer.file then return nil, cant_write(path, message) end
  return true
end

--- When the run's time was 0: as its events say, or by the clock.
local function began_at(dir, records)
  local last = records[#records]
  return events.began(dir .. "/" .. Log.EVENTS)
    or os.time() - (last and tonumber(last.seconds) or 0)
end

--- Opens a run folder's log. options: dir, json (function that prints a record too), step (go
-- on after this step: what the log says beyond it goes), from (folder whose log to take over),
-- tensorboard (events for it, too). nil, message. log.broken: so many lines were no records, and
-- are left out.
function Log.open(options)
  local log = setmetatable({ dir = options.dir, json = options.json, train = {}, valid = {},
                             broken = 0 }, Log)
  local from, records = options.from or options.dir, {}
  if options.step then records, log.broken = earlier(from .. "/log.jsonl", options.step) end
  for _, record in ipairs(records) do log:remember(record) end
  log.writers = writers(options.tensorboard, began_at(from, records))
  for _, writer in ipairs(log.writers) do
    local ok, message = begin(writer, log.dir, records)
    if not ok then return nil, message end
  end
  return log
end

--- Takes a record's points for the picture. The last figure is none of them where that step has one
-- by the measure of the others.
function Log:remember(record)
  local loss = record.smoothed or record.loss
  if loss then self.train[#self.train + 1] = { record.step, loss } end
  local last = self.valid[#self.valid]
  if record.valid_loss and not (last and last[1] == record.step) then
    self.valid[#self.valid + 1] = { record.step, record.valid_loss }
  end
end

--- Appends a record to the log, and prints it when asked to; true, or nil, message.
function Log:write(record)
  self:remember(record)
  for _, writer in ipairs(self.writers) do
    local ok, message = writer.file:write(writer.line(record))
    if ok then ok, message = writer.file:flush() end
    if not ok then return nil, ("%s/%s: %s"):format(self.dir, writer.name, message) end
  end
  if self.json then self.json(record) end
  return true
end

--- The loss curve as loss.svg; its path, or nil, message. chart: { title, held_out (what its
-- points are of), baselines = { name = loss in nats } }.
function Log:draw(chart)
  local series = { { name = ("training, running mean of about %d steps"):format(Log.SMOOTH),
                     points = curves.thin(curves.settled(self.train), 600) } }
  if #self.valid > 0 then
    series[2] = { name = chart.held_out, points = curves.thin(self.valid, 60), marks = true }
  end
  local last = 1
  for _, line in ipairs(series) do
    if #line.points > 0 then last = math.max(last, line.points[#line.points][1]) end
  end
  for name, loss in pf.sorted(chart.baselines) do
    series[#series + 1] = { name = name, points = { { 0, loss }, { last, loss } }, dashed = true }
  end
  local path = self.dir .. "/loss.svg"
  local ok, message = whole_file.write(path, svg.chart {
    title = chart.title, x = "step", y = "nats a token", series = series })
  if not ok then return nil, message end
  return path
end

function Log:close()
  for _, writer in ipairs(self.writers) do writer.file:close() end
end

return Log
