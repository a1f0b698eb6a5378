/** The command line, checked once. */
import { Command, InvalidArgumentError, Option, type OutputConfiguration } from 'commander'
import type { SubstrateName, WorkloadName } from './bench.ts'

export interface BenchOptions {
  readonly substrates: readonly SubstrateName[]
  readonly workloads: readonly WorkloadName[]
  readonly seconds: number
  /** Of the measurement before the first, which does not count; 0: none. */
  readonly warmUpSeconds: number
  readonly repetitions: number
  /** Adapters by name; undefined: all. */
  readonly only: readonly string[] | undefined
  readonly callers: readonly number[]
  /** undefined: each workload's own. */
  readonly sizes: readonly number[] | undefined
  readonly durationMs: number
  readonly waiters: readonly number[]
  readonly others: readonly number[]
  /** false: without the arms that only explain others (`Adapter.isDetail`), unless they are named. */
  readonly details: boolean
  /** The folder of the checkout to compare this one with; undefined: other libraries are. */
  readonly against: string | undefined
  /** Of measurements here and there. */
  readonly pairs: number
  readonly failIfWorse: boolean
  /** Where to write the results as JSON. */
  readonly json: string | undefined
  /** Where to draw them. */
  readonly svg: string | undefined
  /** The document whose tables are to be these. */
  readonly markdown: string | undefined
}

/** What can be chosen from. */
export interface Choices {
  readonly substrates: readonly SubstrateName[]
  readonly workloads: readonly { readonly name: WorkloadName; readonly about: string }[]
  readonly adapters: readonly string[]
}

interface Flags {
  readonly substrate: readonly SubstrateName[]
  readonly workload: readonly WorkloadName[]
  readonly seconds: number
  readonly warmUp: number
  readonly repetitions: number
  readonly only?: readonly string[]
  readonly callers: readonly number[]
  readonly sizes?: readonly number[]
  readonly duration: number
  readonly waiters: readonly number[]
  readonly others: readonly number[]
  readonly quick?: true
  readonly against?: string
  readonly pairs: number
  readonly failIfWorse?: true
  readonly json?: string
  readonly svg?: string
  readonly markdown?: string
}

/** Instead of the defaults: what matters, in under 20 minutes. */
const quickly = {
  substrate: ['postgres', 'redis', 'redis-cluster', 'etcd'],
  workload: ['W1', 'W2', 'W4', 'W7', 'W9'],
  seconds: 0.5,
  warmUp: 0.8,
  repetitions: 3,
  callers: [64],
  waiters: [2, 16, 1_000],
  others: [32],
} as const satisfies Partial<Flags>

/**
 * Prints help, or what is wrong.
 *
 * @throws CommanderError after that, with the code to end with
 */
export function parseOptions(
  argv: readonly string[],
  choices: Choices,
  output: OutputConfiguration = {},
): BenchOptions {
  const { substrates, adapters } = choices
  const workloads = choices.workloads.map(({ name }) => name)
  const command = new Command('bench')
    .exitOverride()
    .configureOutput(output)
    .description('Figures of the lease library as ratios within one run, beside the same done by hand.')
    .addOption(flag('--substrate <names>', 'where to run', oneOrMore(substrates)).default(substrates, 'all'))
    .addOption(flag('--workload <names>', 'what to run', oneOrMore(workloads)).default(workloads, 'all'))
    .addOption(flag('--seconds <n>', 'length of one measurement', positive).default(1))
    .addOption(
      flag('--warm-up <n>', 'seconds that each runs beforehand, until its code is compiled', notNegative).default(3),
    )
    .addOption(flag('--repetitions <n>', 'measurements of each', positiveInteger).default(5))
    .addOption(flag('--only <names>', 'adapters to run', oneOrMore(adapters)))
    .addOption(
      flag('--callers <counts>', 'W2: concurrent callers', integers).default([16, 64, 256, 2_000], '16,64,256,2000'),
    )
    .addOption(
      flag(
        '--sizes <counts>',
        'W3, W6: leases held; W8: leases in the namespace (default: 1000,10000; W6, W8: 100000 too)',
        integers,
      ),
    )
    .addOption(
      flag('--duration <ms>', 'W3: of a lease; a third of it is between renewals', positiveInteger).default(3_000),
    )
    .addOption(
      flag('--waiters <counts>', 'W4: those who wait for one lease', integers).default(
        [2, 16, 64, 256, 1_000],
        '2,16,64,256,1000',
      ),
    )
    .addOption(
      flag('--others <counts>', 'W9: others in the namespace, in processes of their own', integers).default(
        [1, 8, 32, 128],
        '1,8,32,128',
      ),
    )
    .option(
      '--quick',
      `what matters, in under 20 minutes: other defaults (${described(quickly)}), and fewer arms by hand`,
    )
    .addOption(
      new Option('--against <folder>', 'compare with another checkout of this project, which has been built').conflicts(
        ['repetitions', 'svg', 'markdown'],
      ),
    )
    .addOption(flag('--pairs <n>', '--against: pairs of measurements, here and there', positiveInteger).default(11))
    .option('--fail-if-worse', '--against: end with 2 when a verdict is "worse"')
    .option('--json <file>', 'write the results there as well')
    .option('--svg <file>', 'draw the results there as a chart')
    .option('--markdown <file>', 'write the tables into the places for them in that document')
    .addHelpText(
      'after',
      `\nWorkloads:\n${choices.workloads.map(({ name, about }) => `  ${name.padEnd(4)}  ${about}`).join('\n')}`,
    )
    .addHelpText('after', `\nAdapters: ${adapters.join(', ')}`)
    .addHelpText(
      'after',
      '\nServers of its own, as durable as in production, or those that DATABASE_URL, REDIS_URL, ETCD_ENDPOINTS and DYNAMODB_ENDPOINT name.',
    )
    .allowExcessArguments(false)
    .parse(argv, { from: 'user' })
  const flags = command.opts<Flags>()
  const chosen = flags.quick ? { ...flags, ...quickly, ...given(command) } : flags
  const {
    substrate,
    workload,
    only,
    json,
    svg,
    markdown,
    sizes,
    duration,
    warmUp,
    against,
    failIfWorse,
    quick,
    ...numbers
  } = chosen
  for (const [name, flag] of Object.entries({ pairs: '--pairs <n>', failIfWorse: '--fail-if-worse' })) {
    if (against === undefined && command.getOptionValueSource(name) === 'cli') {
      command.error(`error: option '${flag}' needs '--against <folder>'`)
    }
  }
  const files = { json, svg, markdown }
  const renamed = { substrates: substrate, workloads: workload, durationMs: duration, warmUpSeconds: warmUp }
  const details = quick === undefined
  return { ...renamed, only, details, ...files, sizes, against, failIfWorse: failIfWorse ?? false, ...numbers }
}

/** What the command line says itself. */
function given(command: Command): Partial<Flags> {
  const flags = Object.entries(command.opts<Flags>())
  return Object.fromEntries(flags.filter(([name]) => command.getOptionValueSource(name) === 'cli'))
}

/** As one would write them. */
function described(defaults: Partial<Flags>): string {
  const flag = (name: string): string => `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`
  return Object.entries(defaults)
    .map(([name, value]) => `${flag(name)} ${String(value)}`)
    .join(' ')
}

function flag(flags: string, about: string, parse: (text: string) => unknown): Option {
  return new Option(flags, about).argParser(parse)
}

function oneOrMore<Name extends string>(known: readonly Name[]): (text: string) => readonly Name[] {
  return (text) =>
    text.split(',').map((word) => {
      const name = known.find((one) => one.toLowerCase() === word.trim().toLowerCase())
      if (name === undefined) throw new InvalidArgumentError(`"${word}" is none of ${known.join(', ')}.`)
      return name
    })
}

const notNegative = numberThat('be zero or a number above', (value) => value >= 0)

const positive = numberThat('be a number above zero', (value) => value > 0)

function numberThat(must: string, holds: (value: number) => boolean): (text: string) => number {
  return (text) => {
    const value = Number(text)
    if (text.trim() === '' || !Number.isFinite(value) || !holds(value)) {
      throw new InvalidArgumentError(`It must ${must}.`)
    }
    return value
  }
}

function positiveInteger(text: string): number {
  const value = positive(text)
  if (!Number.isSafeInteger(value)) throw new InvalidArgumentError('It must be a whole number above zero.')
  return value
}

function integers(text: string): readonly number[] {
  return text.split(',').map(positiveInteger)
}
