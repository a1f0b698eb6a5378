/** `pnpm capacity`: see `--help`. */
import { writeFile } from 'node:fs/promises'
import { Command, InvalidArgumentError } from 'commander'
import { substrateNamed } from '../substrates/index.ts'
import { fleetLoad, lookIntervalMs, renewalIntervalMs, type Fleet } from './fleet-load.ts'
import { measuredServers, type MeasuredName } from './measured-server.ts'
import { measureStore, type Extent, type Figure } from './measure.ts'
import { countHandOffs, FleetSimulation } from './simulation.ts'

const names = Object.keys(measuredServers) as readonly MeasuredName[]

/** Until clients have opened what they open after their first calls. */
const SETTLING_MS = 1_000

/** Renewals of each lease that a simulation counts. */
const INTERVALS = 3

await new Command('capacity')
  .description('How much one server carries: what a fleet asks of it, and what that costs the server.')
  .addCommand(
    withFleet(new Command('load'))
      .description('print what such a fleet asks of its server, by the formula')
      .action((fleet: Fleet) => print(linesOf(fleet))),
  )
  .addCommand(
    withFleet(new Command('simulate'))
      .description('count what such a fleet asks of the memory store on a simulated clock, beside the formula')
      .action(async (fleet: Fleet) => print([...linesOf(fleet), ...(await simulated(fleet))])),
  )
  .addCommand(
    new Command('measure')
      .description('measure what servers take for it: servers of its own, as durable as in production; on Linux')
      .option('--substrate <names>', 'which ones', oneOrMore, names)
      .option('--seconds <n>', 'length of one phase', positive, 1)
      .option('--rounds <n>', 'of each phase; the least counts, for other work only adds', positive, 7)
      .option('--leases <n>', 'whose bytes are counted', positive, 20_000)
      .option('--clients <n>', 'of the fleet, with 20 leases each', positive, 50)
      .option('--duration-ms <n>', 'of a lease that is renewed', positive, 3_000)
      .option('--idle-seconds <n>', 'for how long it is counted what waiting takes', positive, 60)
      .option('--json <file>', 'write the figures there as well')
      .action(measure),
  )
  .parseAsync()

async function measure({
  substrate,
  json,
  ...extent
}: Omit<Extent, 'settlingMs'> & {
  readonly substrate: readonly MeasuredName[]
  readonly json?: string
}): Promise<void> {
  const all: Record<string, readonly Figure[]> = {}
  for (const name of substrate) {
    const measured = await substrateNamed(name)
    const adapter = measured.adapters.find(({ role }) => role === 'library')
    if (adapter === undefined) throw new Error(`no library on ${name}`)
    const server = await measuredServers[name]()
    try {
      const ground = await measured.reach(server.url)
      try {
        const figures = await measureStore(server, adapter, ground, { ...extent, settlingMs: SETTLING_MS })
        all[name] = figures
        print([`${server.about}:`, '', ...tableOf(figures), ''])
      } finally {
        await ground.close()
      }
    } finally {
      await server.stop()
    }
  }
  if (json !== undefined) await writeFile(json, `${JSON.stringify(all, undefined, 2)}\n`)
}

function withFleet(command: Command): Command {
  return command
    .option('--processes <n>', 'that do the same', positive, 10_000)
    .option('--leases <n>', 'that each holds', positive, 20)
    .option('--duration-ms <n>', 'of a lease', positive, 30_000)
    .option('--waits <n>', 'leases that each waits for', whole, 0)
    .option('--no-server-clock', 'the store decides without a clock, as etcd does')
}

function linesOf(fleet: Fleet): readonly string[] {
  const { durationMs } = fleet
  const load = fleetLoad(fleet)
  return [
    `a lease is renewed every ${renewalIntervalMs(durationMs) / 1000} s`,
    `renewals/s          ${rounded(load.renewals)}`,
    `  in requests/s     ${rounded(load.fewestRequests)} to ${rounded(load.mostRequests)}`,
    `reads by holders/s  ${rounded(load.reads)}`,
    `a process looks at a lease that it waits for every ${lookIntervalMs(fleet) / 1000} s`,
    `looks/s             ${rounded(load.looks)}`,
  ]
}

async function simulated(fleet: Fleet): Promise<readonly string[]> {
  const simulation = await FleetSimulation.start({ ...fleet, apartMs: 0 })
  const intervalMs = renewalIntervalMs(fleet.durationMs)
  await simulation.countFor(2 * fleet.durationMs)
  const cpu = process.cpuUsage()
  const counts = await simulation.countFor(INTERVALS * intervalMs)
  const { user, system } = process.cpuUsage(cpu)
  await simulation.stop()
  const handOffs = 100
  const waiters = 100
  const handed = await countHandOffs(waiters, handOffs)
  const seconds = (INTERVALS * intervalMs) / 1000
  return [
    `counted in ${seconds} s of simulated time, ${rounded((user + system) / 1e6)} s of CPU:`,
    `renewals/s          ${rounded(counts.operations.extend / seconds)}`,
    `requests/s          ${rounded(counts.requests / seconds)}, with the looks`,
    `reads by holders/s  ${rounded(counts.reads / seconds)}`,
    `looks/s             ${rounded(counts.operations.claim / seconds)}`,
    `a hand-off with ${waiters} waiting: ${handed.requests / handOffs} requests, ${handed.messages / handOffs} messages`,
  ]
}

function tableOf(figures: readonly Figure[]): readonly string[] {
  return [
    '|  | least | median | most | unit |',
    '| --- | --: | --: | --: | --- |',
    ...figures.map(
      ({ name, unit, least, median, most }) =>
        `| ${name} | ${rounded(least)} | ${rounded(median)} | ${rounded(most)} | ${unit} |`,
    ),
  ]
}

function rounded(value: number): string {
  return value.toLocaleString('en-US', { maximumSignificantDigits: Math.abs(value) < 1000 ? 3 : 6 })
}

function print(lines: readonly string[]): void {
  process.stdout.write(`${lines.join('\n')}\n`)
}

function oneOrMore(text: string): readonly MeasuredName[] {
  return text.split(',').map((word) => {
    const name = names.find((one) => one === word)
    if (name === undefined) throw new InvalidArgumentError(`"${word}" is none of ${names.join(', ')}.`)
    return name
  })
}

function positive(text: string): number {
  const value = whole(text)
  if (value === 0) throw new InvalidArgumentError('It must be above zero.')
  return value
}

function whole(text: string): number {
  const value = Number(text)
  if (text.trim() === '' || !Number.isSafeInteger(value) || value < 0) {
    throw new InvalidArgumentError('It must be a whole number, zero or above.')
  }
  return value
}
