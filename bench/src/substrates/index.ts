import type { Substrate } from '../bench.ts'
import { memory } from './memory.ts'
import { postgres } from './postgres.ts'

/** In the order in which they run. */
export const substrates: readonly Substrate[] = [memory, postgres]
