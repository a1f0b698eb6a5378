#!/usr/bin/env node
/** The command `lease`. */
import { processIo } from './io.ts'
import { run } from './run.ts'

const args = process.argv.slice(2)
// A password in --url is visible to everyone who can list processes: for as short a time as possible.
if (args.some((word) => word.includes('://'))) process.title = 'lease'
const code = await run(args, processIo())
// What a driver keeps open must not keep the command.
process.stdout.write('', () => process.stderr.write('', () => process.exit(code)))
