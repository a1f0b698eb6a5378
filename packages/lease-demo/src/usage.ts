/** The command line of the demo. */
import { parseArgs } from 'node:util'
import { isVenueName, type VenueName, venueNames } from './venues.ts'

/** The files that `--draw` writes. */
export const pictureNames = { guarded: 'with-the-guard.svg', unguarded: 'without-the-guard.svg' } as const

/** What to type to run the demo, in a clone of this repository. */
export const COMMAND = 'npx -y pnpm@10 demo'

const usage = `Usage: ${COMMAND} [--on ${venueNames.join('|')}] [--unguarded]
       ${COMMAND} [--on ${venueNames.join('|')}] --draw FOLDER

Four worker processes move money between accounts. Who moves money holds the
leases of both accounts. One worker is frozen in the middle of a write until its
leases have lapsed, another is killed. In the end the books are checked.

  --on NAME      where leases and accounts are (default ${venueNames[0]})
  --unguarded    check the leases as before, but write without the guard, and
                 see the damage
  --draw FOLDER  run with and without the guard, and draw what happened:
                 ${pictureNames.guarded} and ${pictureNames.unguarded}
  --help         this text

Environment:
  DATABASE_URL       a PostgreSQL server (15 or later); a schema is made there
  REDIS_URL          a Redis server (7 or later); keys with a prefix there
  ETCD_ENDPOINTS     members of etcd (3.4 or later), comma separated; likewise
  DYNAMODB_ENDPOINT  URL of a local DynamoDB, or of AWS; a table is made there
                     What the demo makes is removed afterwards. Without the
                     variable a server is started and removed again.
  NO_COLOR           no colours
  COLUMNS            width of the output where it is no terminal (default 80)

Exit code:
  0  the books balance (and, with the guard: the stale write was refused, and
     the leases of the frozen and the killed worker were taken over); or both
     pictures are drawn
  1  the books do not balance, or the story did not show what it should
  2  wrong usage
  3  the story could not be shown: no server, a worker failed or hangs, or the
     machine is too slow
`

/** What to play. */
export interface Wishes {
  readonly on: VenueName
  readonly guarded: boolean
  /** The folder for pictures of both runs. */
  readonly draw?: string
}

/** Why nothing is played. */
export interface Usage {
  readonly exitCode: 0 | 2
  /** For stdout, or for stderr when the exit code is 2. */
  readonly text: string
}

/** Reads the arguments of the command. */
export function parse(args: readonly string[]): Wishes | Usage {
  try {
    const { values } = parseArgs({
      args: args.filter((arg, index) => index > 0 || arg !== '--'), // demo -- --unguarded
      options: {
        on: { type: 'string', default: venueNames[0] },
        unguarded: { type: 'boolean' },
        draw: { type: 'string' },
        help: { type: 'boolean', short: 'h' },
      },
    })
    if (values.help !== true) {
      const { on = '', draw } = values
      if (!isVenueName(on)) throw new Error(`--on must be one of ${venueNames.join(', ')}, not '${on}'`)
      if (draw === '') throw new Error('--draw needs the folder for the pictures')
      if (draw !== undefined && values.unguarded === true) {
        throw new Error('--draw runs with and without the guard: leave out --unguarded')
      }
      return { on, guarded: values.unguarded !== true, ...(draw !== undefined && { draw }) }
    }
    return { exitCode: 0, text: usage }
  } catch (error) {
    return { exitCode: 2, text: `${error instanceof Error ? error.message : String(error)}\n\n${usage}` }
  }
}
