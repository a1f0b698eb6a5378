/** The command chaos: runs, checks a history again, draws one. `main.ts` is its process. */
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { inspect } from 'node:util'
import { Command, CommanderError, InvalidArgumentError } from 'commander'
import { GROUNDS, type GroundName } from '../ground.ts'
import { openGround } from '../grounds/index.ts'
import { nemesesOf } from '../nemeses/index.ts'
import { judgeFolder, type Judged } from './checks/index.ts'
import { runControls, type ControlResult } from './controls.ts'
import { folderOfItsOwn, readHistory, sizeOfHistory } from './history.ts'
import { run } from './run.ts'
import { drawTimeline, wordsOf } from './timeline.ts'

interface Flags {
  readonly on: readonly GroundName[]
  readonly nemesis?: readonly string[]
  readonly minutes: number
  readonly seed: number
  readonly workers: number
  readonly out: string
  readonly keep?: boolean
  readonly controls: boolean
}

const LONG_BYTES = 300 * 2 ** 20

export interface Surroundings {
  /** Gets each line of the report. */
  readonly out: (line: string) => void
  /** Gets what is wrong with the arguments or with a store. */
  readonly err: (line: string) => void
  /** Ends a run in order: what is recorded is kept. */
  readonly signal: AbortSignal
}

/**
 * Does what the arguments say.
 *
 * @returns the exit code: 0, or 1 if something is wrong with the arguments, with a store or with a history
 */
export async function chaos(args: readonly string[], surroundings: Surroundings): Promise<number> {
  const command = new ChaosCommand(surroundings)
  try {
    await command.parse(args)
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode
    surroundings.err(error instanceof Error ? error.message : String(error))
    if (process.env['DEBUG'] !== undefined) surroundings.err(inspect(error))
    return 1
  }
  return command.exitCode
}

class ChaosCommand {
  readonly #out: (line: string) => void
  readonly #err: (line: string) => void
  readonly #signal: AbortSignal
  #exitCode = 0

  constructor({ out, err, signal }: Surroundings) {
    this.#out = out
    this.#err = err
    this.#signal = signal
  }

  get exitCode(): number {
    return this.#exitCode
  }

  async parse(args: readonly string[]): Promise<void> {
    const program = new Command('chaos')
      .description('Worker processes on real servers, with faults; the history is checked.')
      .exitOverride()
      .configureOutput({
        writeOut: (text) => this.#out(text.trimEnd()),
        writeErr: (text) => this.#err(text.trimEnd()),
      })

    program
      .command('run', { isDefault: true })
      .description('runs on each ground, one after another')
      .option('--on <grounds>', `some of ${GROUNDS.join(', ')}, separated by commas`, grounds, [
        'postgres',
        'redis',
        'etcd',
      ])
      .option('--nemesis <names>', 'only these faults, separated by commas (default: all that are no controls)', list)
      .option('--minutes <n>', 'how long there are faults, on each ground', positive, 1)
      .option(
        '--seed <n>',
        'what is done by chance is done again with this number',
        natural,
        Math.floor(Math.random() * 1e6),
      )
      .option('--workers <n>', 'processes', natural, 3)
      .option('--out <folder>', 'where the histories go', 'chaos-histories')
      .option('--keep', 'keep the histories of sound runs as well')
      .option('--no-controls', 'leave out the negative controls')
      .action(async (flags: Flags) => {
        for (const name of flags.on) {
          if (!this.#signal.aborted) await this.#runOn(name, flags)
        }
      })

    program
      .command('check')
      .argument('<folder>')
      .description('checks a history again')
      .action(async (folder: string) => {
        this.#tell(await judgeFolder(folder))
      })

    program
      .command('draw')
      .argument('<folder>')
      .description('draws a history as timeline.html in its folder')
      .action(async (folder: string) => {
        const judged = await judgeFolder(folder)
        await this.#draw(folder, judged)
        this.#out(`${folder}/timeline.html has ${judged.violations.length} violations`)
      })

    await program.parseAsync(args, { from: 'user' })
  }

  async #runOn(name: GroundName, flags: Flags): Promise<void> {
    const { seed, minutes, workers, out, keep = false } = flags
    await using ground = await openGround(name, { namespace: `chaos-${seed}` })
    for (const { name: left, why } of ground.leftOut) this.#out(`${name} leaves out ${left}: ${why}`)
    const nemeses = nemesesOf(ground, flags.nemesis)
    const folder = folderOfItsOwn(out, `${name}-${seed}`)
    const folderOf = (part: string): string => join(folder, part)
    const signal = this.#signal
    const shared = { ground, seed, signal, report: this.#out }
    await run({ ...shared, nemeses, minutes, workers, folder: folderOf('run') })
    const judged = await judgeFolder(folderOf('run'))
    const isSound = this.#tell(
      judged,
      nemeses.some(({ isControl }) => isControl),
    )
    if (!isSound) {
      await this.#draw(folderOf('run'), judged)
      this.#out(`${name}: see ${folderOf('run')}/timeline.html; check again with: chaos check ${folderOf('run')}`)
    }
    const controls = flags.controls && !signal.aborted ? await runControls(shared, folderOf) : []
    for (const control of controls) this.#tellControl(name, control)
    const isFailed = !isSound || controls.some(({ isFound }) => !isFound)
    if (isFailed) this.#exitCode = 1
    if (!isFailed && !keep && !signal.aborted) rmSync(folder, { recursive: true })
  }

  /** @param isControl a fault is among the exceptions of the guarantees: something must be found */
  #tell({ settings, damage, fromMs, ...verdict }: Judged, isControl: boolean = false): boolean {
    const { violations, named, losses, figures } = verdict
    const { ground, seed } = settings
    for (const line of damage) this.#out(`${ground}: ${line}`)
    for (const violation of violations.slice(0, 50)) this.#out(`  ${wordsOf(violation, fromMs)}`)
    for (const { violation, loss } of named.slice(0, 10))
      this.#out(`  lost by ${loss.what}: ${wordsOf(violation, fromMs)}`)
    const isSeen = violations.length + named.length > 0
    // Where the run knows what the store forgot, nothing else may be wrong.
    const isSound = isControl && losses === 0 ? isSeen : violations.length === 0 && (!isControl || isSeen)
    const found = violations.length === 0 ? 'no violation' : `${violations.length} violations`
    const forgotten = losses === 0 ? '' : `, ${named.length} that the guarantees name in ${losses} losses`
    const expected = !isControl ? '' : isSeen ? ', as the control must have' : ': the control was not seen'
    const { operations, grants, terms, faults } = figures
    const counts = `${operations} operations, ${grants} granted, ${terms} terms, ${faults} faults`
    this.#out(`${ground}, seed ${seed}: ${found}${forgotten}${isSound || !isSeen ? expected : ''}; ${counts}`)
    if (!isSound) this.#exitCode = 1
    return isSound
  }

  #tellControl(ground: string, { name, isFound, what }: ControlResult): void {
    this.#out(`${ground}, control ${name}: ${isFound ? 'found' : 'MISSED'}, ${what}`)
  }

  /** More than a browser can show is left out: of a long history there are only the leases with violations. */
  async #draw(folder: string, { violations }: Judged): Promise<void> {
    const wrong = new Set(violations.map(({ lease }) => lease))
    const isLong = sizeOfHistory(folder) > LONG_BYTES
    const history = await readHistory(folder, isLong ? { concerns: (lease) => wrong.has(lease) } : {})
    drawTimeline(history, violations, join(folder, 'timeline.html'))
  }
}

function list(text: string): string[] {
  const names = text.split(',').map((name) => name.trim())
  if (names.includes('')) throw new InvalidArgumentError('It must be names, separated by commas.')
  return names
}

function grounds(text: string): GroundName[] {
  return list(text).map((name) => {
    const found = GROUNDS.find((ground) => ground === name)
    if (found === undefined) throw new InvalidArgumentError(`There is no ground "${name}", only ${GROUNDS.join(', ')}.`)
    return found
  })
}

function natural(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError('It must be a whole number.')
  return Number(text)
}

function positive(text: string): number {
  const number = Number(text)
  if (!/^\d+(\.\d+)?$/.test(text) || number <= 0 || number > 600) {
    throw new InvalidArgumentError('It must be a number of minutes above 0, at most 600.')
  }
  return number
}
