//! Tests of the real programs: a cluster each, over real SSH, faults by `kill -9`, full disks and broken networks.

mod t100_points;
mod t10_kills;
mod t110_streams;
mod t120_disks;
mod t130_networks;
mod t140_clocks;
mod t150_members;
mod t160_console;
mod t170_scaling;
mod t200_appends;
mod t20_input;
mod t210_disk;
mod t220_partition;
mod t230_absence;
mod t280_scripts;
mod t30_processes;
mod t40_operators;
mod t50_strangers;
mod t60_sizes;
mod t70_resume;
mod t80_chaos;
mod t90_chains;
