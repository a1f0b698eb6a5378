/** The program of `lint` that checks words: prints what is not plain, and ends with 1 then. */
import { findings } from './words.ts'

const found = findings()
for (const { file, line, words, instead } of found) console.log(`${file}:${line}: "${words}": write ${instead}`)
if (found.length > 0) process.exitCode = 1
