$ErrorActionPreference='SilentlyContinue';$ProgressPreference='SilentlyContinue'
try{[Console]::OutputEncoding=New-Object Text.UTF8Encoding $false}catch{}
$env:PATH+=";$env:ProgramFiles\NVIDIA Corporation\NVSMI;$env:LOCALAPPDATA\Programs\Ollama"
$m='@@rlca-windows'
function sec($n,$b){"`n$m begin $n";$global:LASTEXITCODE=0
try{& $b 2>&1|Out-String -Width 4096 -Stream|%{$_.TrimEnd()}}catch{"$_"}
"`n$m end $n rc=$global:LASTEXITCODE"}
sec uname {"Windows $([Environment]::OSVersion.Version) $env:PROCESSOR_ARCHITECTURE"}
sec win {$c=gp 'HKLM:\SOFTWARE\Microsoft\Windows NT\CurrentVersion'
"name $($c.ProductName)";"build $($c.CurrentBuild)";"release $($c.DisplayVersion)"
"cpu $((gp HKLM:\HARDWARE\DESCRIPTION\System\CentralProcessor\0).ProcessorNameString)";"cores $env:NUMBER_OF_PROCESSORS"
$c=gp HKLM:\HARDWARE\DESCRIPTION\System\BIOS;"product $($c.SystemManufacturer) $($c.SystemProductName)"}
sec mem {Add-Type -AssemblyName Microsoft.VisualBasic;$c=New-Object Microsoft.VisualBasic.Devices.ComputerInfo
"total $($c.TotalPhysicalMemory)";"avail $($c.AvailablePhysicalMemory)"}
sec drives {[IO.DriveInfo]::GetDrives()|?{$_.IsReady -and $_.DriveType -eq 'Fixed'}|%{"drive $($_.AvailableFreeSpace) $($_.Name)"}}
sec gpureg {gp 'HKLM:\SYSTEM\CurrentControlSet\Control\Class\{4d36e968-e325-11ce-bfc1-08002be10318}\0*'|%{"$($_.DriverDesc)|$($_.DriverVersion)|$($_.'HardwareInformation.qwMemorySize')|$($_.'HardwareInformation.MemorySize')|$($_.MatchingDeviceId)"}}
sec procs {gps ollama*,llama-server*,vllm*,com.docker*,wslrelay|%{"win $($_.Id) $($_.ProcessName)"}}
sec listen {netstat -ano -p TCP;netstat -ano -p TCPv6}
sec tools {foreach($t in 'ollama','vllm','llama-server','docker','podman','nvidia-smi','curl'){$c=gcm $t -CommandType Application|select -First 1;if($c){"$t $($c.Definition)"}}}
sec cim_os {gcim Win32_OperatingSystem -OperationTimeoutSec 5|fl TotalVisibleMemorySize,FreePhysicalMemory,SizeStoredInPagingFiles,FreeSpaceInPagingFiles}
sec cim_gpu {gcim Win32_VideoController -OperationTimeoutSec 5|fl Name,DriverVersion,AdapterRAM,PNPDeviceID}
if(gcm nvidia-smi){$q='index,uuid,memory.total,memory.used,memory.free,driver_version,pci.bus_id'
foreach($f in "$q,compute_cap,name","$q,name"){"`n$m fields $f"
sec nv_csv {nvidia-smi "--query-gpu=$f" '--format=csv,noheader,nounits'};if($LASTEXITCODE -ne 2){break}}}
if(gcm ollama){sec v_ollama {ollama --version}}
if(gcm docker){sec docker {docker ps --format '{{.Image}} {{.Ports}}'}}
"`n$m done"
